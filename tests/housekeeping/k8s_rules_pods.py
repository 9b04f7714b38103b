"""Pods: budgets, stops and room; images and rights."""

import re
from collections.abc import Iterator
from typing import Any

from tests.housekeeping.k8s_cluster import Cluster, Object, at, mappings, name_of, pod_specs, quantity
from tests.housekeeping.k8s_facts import images, ingress, jaeger, postgresql, redis
from tests.housekeeping.k8s_rule import SERVICES, matches, pods_of, rule
from urlshortener.links.postgresql import READ_CONNECTIONS, WRITE_CONNECTIONS
from urlshortener.settings import Settings

_SECRETS = {"shortener-service": {"ADMIN_TOKEN", "VISITOR_SECRET"}, "analytics-service": {"ADMIN_TOKEN"}}

# --- Budgets, stops and room


@rule
def a_budget_leaves_room_for_a_drain(cluster: Cluster) -> Iterator[str]:
    pods = pods_of(cluster)
    replicas = {
        each["metadata"]["name"]: cluster.pods(each["metadata"]["name"])[0] for each in cluster.of("Deployment")
    }
    for each in cluster.of("PodDisruptionBudget"):
        chosen = [name for name, labels in pods.items() if matches(each["spec"]["selector"], labels)]
        if each["spec"].get("maxUnavailable", 1) != 1:
            yield f"{name_of(each)} lets {each['spec']['maxUnavailable']} go at once, and a majority with them"
        if len(chosen) != 1:
            yield f"{name_of(each)} selects {chosen}"
        elif chosen[0] in ("PostgreSQL", "Redis", "Sentinel"):
            yield f"{name_of(each)} is beside the operator's own: with two, no pod can be evicted"
        elif "minAvailable" in each["spec"] and each["spec"]["minAvailable"] >= replicas.get(chosen[0], 0):
            yield f"{name_of(each)} keeps every pod of {chosen[0]}, so that no node can be drained"
    covered = {each["metadata"]["name"] for each in cluster.of("PodDisruptionBudget")}
    yield from (f"{service} has no budget" for service in SERVICES if replicas[service] > 1 and service not in covered)


@rule
def a_stop_fits_into_its_time(cluster: Cluster) -> Iterator[str]:
    for service in SERVICES:
        workload = cluster.get("Deployment", service)
        pod = workload["spec"]["template"]["spec"]
        settings = Settings.read(cluster.environment_of(workload))
        pause = at(pod, "containers.0.lifecycle.preStop.sleep.seconds")
        needed = pause + settings.drain_delay.total_seconds() + settings.stop_timeout.total_seconds()
        if pause < 1 or needed >= at(pod, "terminationGracePeriodSeconds"):
            yield f"{service} needs {needed} s to stop and is killed after {pod['terminationGracePeriodSeconds']}"
        ready, alive = at(pod, "containers.0.readinessProbe"), at(pod, "containers.0.livenessProbe")
        if ready["periodSeconds"] * ready["failureThreshold"] > 5 or ready["timeoutSeconds"] > ready["periodSeconds"]:
            yield f"{service} is asked for too long whether it can serve"
        if alive["periodSeconds"] * alive["failureThreshold"] < 20 or alive["timeoutSeconds"] >= alive["periodSeconds"]:
            yield f"{service} is killed too soon"
        if pod.get("enableServiceLinks", True):
            yield f"{service} may take variables of Services for settings"
        if at(workload, "spec.strategy.rollingUpdate.maxUnavailable") != 0:
            yield f"{service} loses a pod in a rollout before there is another"


@rule
def the_spool_is_smaller_than_its_volume(cluster: Cluster) -> Iterator[str]:
    workload = cluster.get("Deployment", "shortener-service")
    pod = workload["spec"]["template"]["spec"]
    settings = Settings.read(cluster.environment_of(workload))
    mounts = {each["mountPath"]: each["name"] for each in pod["containers"][0]["volumeMounts"]}
    volume = next((each for each in pod["volumes"] if each["name"] == mounts.get(str(settings.spool_dir))), None)
    if volume is None:
        yield f"no volume is mounted at {settings.spool_dir}"
    elif quantity(at(volume, "emptyDir.sizeLimit")) < settings.spool_max_bytes * 1.25:
        yield "the spool's volume is not a quarter larger: a pod over its limit is evicted, with its events"
    room = at(pod, "containers.0.resources.requests.ephemeral-storage")
    if volume and quantity(room) < quantity(at(volume, "emptyDir.sizeLimit")):
        yield "less disk is asked for than the spool may fill"


@rule
def pods_come_after_the_schema_and_are_spread(cluster: Cluster) -> Iterator[str]:
    """The schema is brought up to date by who starts first, on the primary, where a lock lets one work at a time."""
    for service in SERVICES:
        workload = cluster.get("Deployment", service)
        pod = workload["spec"]["template"]["spec"]
        first = pod.get("initContainers", [{}])[0]
        if first.get("args") != ["migrate"] or first.get("image") != at(pod, "containers.0.image"):
            yield f"{service} does not wait for its schema"
        elif first.get("envFrom") != at(pod, "containers.0").get("envFrom"):
            yield f"{service} migrates another database than its own"
        if "LINKS_PASSWORD" not in {each["name"] for each in first.get("env", [])}:
            yield f"{service} has no password to migrate with"
        if Settings.read(cluster.environment_of(workload)).links_url.hosts != ((f"{_database(cluster)}-rw", 5432),):
            yield f"{service} does not migrate, write and listen on the primary itself"
        if not any(
            each["topologyKey"] == "kubernetes.io/hostname" for each in pod.get("topologySpreadConstraints", [])
        ):
            yield f"{service} may have all its pods on one node"


def _database(cluster: Cluster) -> str:
    return str(postgresql(cluster)["metadata"]["name"])


@rule
def services_can_be_reached_and_are_told_what_production_needs(cluster: Cluster) -> Iterator[str]:
    for service, needed in _SECRETS.items():
        workload = cluster.get("Deployment", service)
        settings = Settings.read(cluster.environment_of(workload))
        if settings.host != "0.0.0.0":
            yield f"{service} listens on {settings.host} only"
        if not settings.trusted_proxies:
            yield f"{service} believes no proxy, so every visitor has the address of the edge"
        if not settings.otel_exporter_otlp_endpoint:
            yield f"{service} sends no traces"
        if settings.public_url != f"https://{at(ingress(cluster), 'spec.rules.0.host')}":
            yield f"{service} makes links to {settings.public_url}, which is not the Ingress"
        secrets = {each["name"] for each in at(workload, "spec.template.spec.containers.0.env") if "valueFrom" in each}
        yield from (f"{service} is not given {name}" for name in sorted(needed - secrets))
        readers = {f"{_database(cluster)}-ro"} | {
            each["metadata"]["name"] for each in cluster.of("Pooler") if at(each, "spec.type") == "ro"
        }
        read = settings.links_read_url
        if cluster.environment != "dev" and (read is None or read.hosts[0][0] not in readers):
            yield f"{service} reads from the primary"


@rule
def nothing_is_rendered_that_others_own(cluster: Cluster) -> Iterator[str]:
    """Cluster-wide things have one owner, the install script; an environment has its namespace and what is inside."""
    for each in cluster.objects:
        if each["kind"] in ("StorageClass", "CustomResourceDefinition", "ClusterRole", "IngressClass"):
            yield f"{name_of(each)} belongs to the whole cluster"


# A pod reads from the primary and from a standby, and one connection listens. Only the shortener writes.
CONNECTIONS = {
    "shortener-service": WRITE_CONNECTIONS + 2 * READ_CONNECTIONS + 1,
    "analytics-service": 2 * READ_CONNECTIONS + 1,
}
# The operator and its exporter, and the three that PostgreSQL keeps for superusers.
OTHER_CONNECTIONS = 6


@rule
def connections_suffice(cluster: Cluster) -> Iterator[str]:
    """For every pod of a rollout, even when all that they read and write is at one instance."""
    needed = 0
    for service, each in CONNECTIONS.items():
        surge = at(cluster.get("Deployment", service), "spec.strategy.rollingUpdate.maxSurge")
        needed += (cluster.pods(service)[1] + surge) * each
    allowed = int(at(postgresql(cluster), "spec.postgresql.parameters.max_connections"))
    if needed + OTHER_CONNECTIONS > allowed:
        yield f"the pods may need {needed} connections of {allowed}"


@rule
def the_caches_fit_into_memory(cluster: Cluster) -> Iterator[str]:
    for service in SERVICES:
        workload = cluster.get("Deployment", service)
        limit = quantity(at(workload, "spec.template.spec.containers.0.resources.limits.memory"))
        if Settings.read(cluster.environment_of(workload)).cache_max_bytes > limit / 2:
            yield f"{service}: remembered links may take more than half of its memory"


@rule
def what_is_asked_for_is_at_most_the_limit(cluster: Cluster) -> Iterator[str]:
    for each in mappings(cluster.objects):
        if isinstance(each.get("requests"), dict) and isinstance(each.get("limits"), dict):
            for what, amount in each["limits"].items():
                if quantity(each["requests"].get(what, amount)) > quantity(amount):
                    yield f"more {what} is asked for than the limit {amount}"
    for name, pod in pod_specs(cluster):
        for container in pod["containers"] + pod.get("initContainers", []):
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() & resources.get("limits", {}).keys():
                yield f"{name}, {container['name']}: requests or limits are missing"


# --- Images and rights


@rule
def images_are_pinned(cluster: Cluster) -> Iterator[str]:
    for image in sorted(images(cluster)):
        tag = image.rsplit("/", 1)[-1].partition("@")[0].partition(":")[2]
        if not re.match(r"v?\d+\.\d+", tag):
            yield f"{image} names no version"


@rule
def pods_are_restricted(cluster: Cluster) -> Iterator[str]:
    """Pod Security `restricted`, and what it does not ask for."""
    for each in cluster.of("Namespace"):
        if each["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name_of(each)} enforces nothing"
    for name, pod in pod_specs(cluster):
        yield from _faults_of_pod(name, pod, pod.get("securityContext", {}))
        if pod.get("automountServiceAccountToken", True):
            yield f"{name} carries a key to the API server"
        for container in pod["containers"] + pod.get("initContainers", []):
            yield from _faults_of_container(
                f"{name}, {container['name']}", container, name != "StatefulSet elasticsearch"
            )
    spec = redis(cluster)["spec"]
    yield from _faults_of_pod("Redis", {}, spec["redis"].get("securityContext", {}))
    yield from _faults_of_pod("Sentinel", {}, spec["sentinel"].get("securityContext", {}))
    yield from _faults_of_container("Redis' exporter", at(spec, "redis.exporter") | _renamed(spec), True)
    for name in ("redis", "sentinel"):
        if {at(spec, f"{name}.securityContext.{word}") for word in ("runAsUser", "runAsGroup", "fsGroup")} != {1000}:
            yield f"{name} may not write to its own volume"
    traces = jaeger(cluster)["spec"]
    yield from _faults_of_pod("Jaeger", {}, traces.get("securityContext", {}))
    for where in (
        traces.get("containerSecurityContext", {}),
        at(traces, "storage.esIndexCleaner").get("containerSecurityContext", {}),
    ):
        yield from _faults_of_container("Jaeger", {"securityContext": where}, True)


def _renamed(spec: Object) -> Object:
    return {"securityContext": at(spec, "redis.exporter.containerSecurityContext")}


def _faults_of_pod(name: str, pod: Object, context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield f"{name} may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name} has no seccomp profile"
    if {"hostNetwork", "hostPID", "hostIPC"} & pod.keys() or any("hostPath" in v for v in pod.get("volumes", [])):
        yield f"{name} reaches into its node"


def _faults_of_container(name: str, container: Object, read_only: bool) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{name} may gain rights"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield f"{name} keeps capabilities"
    if read_only and context.get("readOnlyRootFilesystem") is not True:
        yield f"{name} may write to its image"
