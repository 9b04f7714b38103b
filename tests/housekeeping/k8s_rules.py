"""What must be true of every environment, besides the numbers of the page. A rule yields a sentence for each fault."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.housekeeping.k8s_cluster import Cluster, Fault, Object, at, mappings, name_of, pod_specs, quantity
from tests.housekeeping.k8s_facts import elasticsearch, images, ingress, jaeger, postgresql, rabbitmq, redis
from tests.housekeeping.k8s_secrets import keys_of_templates
from urlshortener.errors import WrongSetting
from urlshortener.links.postgresql import READ_CONNECTIONS, WRITE_CONNECTIONS
from urlshortener.settings import TABLE, Settings

Rule = Callable[[Cluster], Iterator[str]]

RULES: list[Rule] = []
_SERVICES = ("shortener-service", "analytics-service")


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def faults(cluster: Cluster) -> list[str]:
    return [fault for each in RULES for fault in broken(each, cluster)]


def broken(check: Rule, cluster: Cluster) -> list[str]:
    try:
        return [f"{check.__name__}: {sentence}" for sentence in check(cluster)]
    except Fault as fault:
        return [f"{check.__name__}: {fault}"]
    except (KeyError, TypeError, ValueError, WrongSetting) as error:  # so wrong that it cannot be looked at
        return [f"{check.__name__}: {type(error).__name__}: {error}"]


# --- Names


# What the operators make out of our objects, with the keys that they promise.
def _secrets(cluster: Cluster) -> dict[str, set[str]]:
    made = {
        f"{postgresql(cluster)['metadata']['name']}-app": {"username", "password", "host", "port", "dbname", "uri"},
        f"{rabbitmq(cluster)['metadata']['name']}-default-user": {"username", "password", "host", "port"},
    }
    return made | keys_of_templates()


@rule
def secrets_have_a_maker(cluster: Cluster) -> Iterator[str]:
    known = _secrets(cluster)
    wanted = [(at(ingress(cluster), "spec.tls.0.secretName"), "tls.crt")]
    wanted += [(at(redis(cluster), "spec.auth.secretPath"), "password")]
    wanted += [(at(jaeger(cluster), "spec.storage.secretName"), key) for key in ("ES_USERNAME", "ES_PASSWORD")]
    for mapping in mappings(cluster.workloads()):
        if reference := mapping.get("secretKeyRef"):
            wanted.append((reference["name"], reference["key"]))
        if reference := mapping.get("secretRef"):
            wanted.append((reference["name"], ""))
    for secret, key in wanted:
        if secret not in known:
            yield f"nobody makes the secret {secret}"
        elif key and key not in known[secret]:
            yield f"the secret {secret} has no key {key}"


@rule
def config_maps_exist_and_are_followed(cluster: Cluster) -> Iterator[str]:
    for mapping in mappings(cluster.workloads()):
        for word in ("configMapRef", "configMapKeyRef", "configMap"):
            if word in mapping and not cluster.has("ConfigMap", mapping[word]["name"]):
                yield f"there is no ConfigMap {mapping[word]['name']}"
    for each in cluster.of("ConfigMap"):
        if not re.search(r"-[a-z0-9]{10}$", each["metadata"]["name"]):
            yield f"{name_of(each)} has no hash in its name, so a change of it rolls no pods"


@rule
def no_two_objects_have_one_name(cluster: Cluster) -> Iterator[str]:
    names = [(name_of(each), each["metadata"].get("namespace")) for each in cluster.objects]
    yield from (f"{name} stands twice" for name, _ in {each for each in names if names.count(each) > 1})


# --- Labels, selectors and ports


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    for each in selector.get("matchExpressions", []):
        if each["operator"] == "In" and labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


# The pods that operators make, by the labels that they give them.
def _pods(cluster: Cluster) -> dict[str, dict[str, str]]:
    pods = {each["metadata"]["name"]: at(each, "spec.template.metadata.labels") for each in cluster.workloads()}
    database, broker, cache = (each(cluster)["metadata"]["name"] for each in (postgresql, rabbitmq, redis))
    traces = jaeger(cluster)["metadata"]["name"]
    name, component = "app.kubernetes.io/name", "app.kubernetes.io/component"
    return pods | {
        "PostgreSQL": {"cnpg.io/cluster": database},
        "RabbitMQ": {name: broker, component: "rabbitmq"},
        "Redis": {name: cache, component: "redis"},
        "Sentinel": {name: cache, component: "sentinel"},
        "Jaeger": {"app": "jaeger", component: "collector", name: f"{traces}-collector"},
        "Jaeger's pages": {"app": "jaeger", component: "query", name: f"{traces}-query"},
        "Jaeger's cleaner": {"app": "jaeger", component: "cronjob-es-index-cleaner"},
    }


@rule
def a_workload_selects_its_own_pods(cluster: Cluster) -> Iterator[str]:
    for each in cluster.workloads():
        labels = at(each, "spec.template.metadata.labels")
        selectors = [at(each, "spec.selector")]
        selectors += [s["labelSelector"] for s in each["spec"]["template"]["spec"].get("topologySpreadConstraints", [])]
        if not all(_matches(selector, labels) for selector in selectors):
            yield f"{name_of(each)} selects other pods than its own"


@rule
def a_service_finds_pods_and_their_ports(cluster: Cluster) -> Iterator[str]:
    for each in cluster.of("Service"):
        selector = each["spec"].get("selector")
        if each["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(each)} is a {each['spec']['type']}"
        if selector is None:  # on purpose without pods: nothing answers
            continue
        workloads = [w for w in cluster.workloads() if _matches({"matchLabels": selector}, _labels(w))]
        if len(workloads) != 1:
            yield f"{name_of(each)} selects {len(workloads)} workloads"
            continue
        doors = [port for c in workloads[0]["spec"]["template"]["spec"]["containers"] for port in c.get("ports", [])]
        known = {door.get("name") for door in doors} | {door["containerPort"] for door in doors}
        for port in each["spec"]["ports"]:
            if port.get("targetPort", port["port"]) not in known:
                yield f"{name_of(each)} leads to {port.get('targetPort')}, which its pods do not have"
            opens = [d["containerPort"] for d in doors if d.get("name") == port.get("targetPort")]
            if opens and opens != [port["port"]]:
                yield f"{name_of(each)} has port {port['port']}, its pods {opens[0]}"


def _labels(workload: Object) -> dict[str, str]:
    return dict(at(workload, "spec.template.metadata.labels"))


@rule
def the_ingress_leads_to_the_services_and_hides_the_probes(cluster: Cluster) -> Iterator[str]:
    paths = {(each["path"], each["pathType"]): each for each in at(ingress(cluster), "spec.rules.0.http.paths")}
    for path in ("/health", "/ready", "/metrics"):
        hidden = paths.get((path, "Exact"))
        service = hidden and cluster.get("Service", hidden["backend"]["service"]["name"])
        if not service or service["spec"].get("selector"):
            yield f"{path} can be reached from outside"
    for each in paths.values():
        backend = each["backend"]["service"]
        doors = at(cluster.get("Service", backend["name"]), "spec.ports")
        known = {door.get("name") for door in doors} | {door["port"] for door in doors}
        if not set(backend["port"].values()) <= known:
            yield f"{each['path']} leads to {backend}, which is no port of that Service"


@rule
def both_ingress_controllers_are_told_the_same(cluster: Cluster) -> Iterator[str]:
    annotations = at(ingress(cluster), "metadata.annotations")
    today = {k.split("/")[1]: v for k, v in annotations.items() if k.startswith("nginx.ingress.kubernetes.io/")}
    successor = {k.split("/")[1]: v for k, v in annotations.items() if k.startswith("nginx.org/")}
    for word, value in successor.items():
        other = today.get({"client-max-body-size": "proxy-body-size"}.get(word, word))
        if value not in (other, f"{other}s"):
            yield f"{word} is {value} for one controller and {other} for the other"
    if today.get("proxy-next-upstream") != "error timeout":
        yield "a status that a service chose would be asked for a second time"
    if int(today.get("proxy-next-upstream-tries", 0)) != 2:
        yield "a request without an answer is to be tried exactly once more"
    if int(today.get("proxy-read-timeout", 0)) < 9:
        yield "a create may take 8 s, the proxy waits less"


@rule
def variables_are_settings_with_right_values(cluster: Cluster) -> Iterator[str]:
    names = {setting.name for setting in TABLE}
    for service in _SERVICES:
        workload = cluster.get("Deployment", service)
        pod = workload["spec"]["template"]["spec"]
        values = cluster.environment_of(workload)
        for container in pod["containers"] + pod.get("initContainers", []):
            given = {each["name"] for each in container.get("env", [])}
            used = set(re.findall(r"\$\((\w+)\)", str(container.get("env", []))))
            yield from (f"{service}: {name} is no setting" for name in (given | set(values)) - names - used)
            yield from (f"{service}: {name} is used and not given" for name in used - given)
        try:
            Settings.read(values)
        except WrongSetting as wrong:
            yield f"{service}: {wrong}"


@rule
def the_second_port_has_the_probes_and_no_service(cluster: Cluster) -> Iterator[str]:
    for service, setting in (("shortener-service", "shortener_ops_port"), ("analytics-service", "analytics_ops_port")):
        workload = cluster.get("Deployment", service)
        container = at(workload, "spec.template.spec.containers.0")
        private = getattr(Settings.read(cluster.environment_of(workload)), setting)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
            asks = at(container, f"{probe}.httpGet")
            if asks["path"] != path or ports.get(asks["port"], asks["port"]) != private:
                yield f"{service}: {probe} asks {asks}"
        if any(door["port"] == private for each in cluster.of("Service") for door in each["spec"]["ports"]):
            yield f"a Service leads to port {private}"


# --- Network policies


# Who must reach whom, at which port of the pod.
def _ways(cluster: Cluster) -> Iterator[tuple[str, str, int]]:
    for service in _SERVICES:
        yield service, "PostgreSQL", 5432
        yield service, "RabbitMQ", 5672
        yield service, "otel-collector", 4317
    yield "analytics-service", "Redis", 6379
    yield "analytics-service", "Sentinel", 26379
    yield "otel-collector", "Jaeger", 4317
    yield "Jaeger", "elasticsearch", 9200
    yield "Jaeger's pages", "elasticsearch", 9200
    yield "Jaeger's cleaner", "elasticsearch", 9200
    for pods, ports in (("PostgreSQL", (5432, 8000)), ("RabbitMQ", (4369, 25672)), ("Redis", (6379,))):
        if cluster.environment != "dev":
            yield from ((pods, pods, port) for port in ports)
    yield "Sentinel", "Redis", 6379
    yield "Sentinel", "Sentinel", 26379


# Who reaches in from other namespaces.
_FROM_OUTSIDE = (
    ("ingress-nginx", "shortener-service", 8080),
    ("ingress-nginx", "analytics-service", 8081),
    ("nginx-ingress", "shortener-service", 8080),
    ("cnpg-system", "PostgreSQL", 8000),
    ("rabbitmq-system", "RabbitMQ", 15672),
    ("redis-operator", "Redis", 6379),
    ("redis-operator", "Sentinel", 26379),
)


def _opens(entry: Object, port: int) -> bool:
    ports = entry.get("ports")
    return ports is None or any(each["port"] <= port <= each.get("endPort", each["port"]) for each in ports)


def _allows(cluster: Cluster, side: str, pod: dict[str, str], port: int, fits: Callable[[Object], bool]) -> bool:
    """One open door is enough; where no policy selects a pod for this side, every door is open."""
    direction = {"ingress": "Ingress", "egress": "Egress"}[side]
    closed = False
    for policy in cluster.of("NetworkPolicy"):
        spec = policy["spec"]
        if not _matches(spec["podSelector"], pod) or direction not in spec["policyTypes"]:
            continue
        closed = True
        for entry in spec.get(side, []):
            peers = entry.get("from" if side == "ingress" else "to")
            if _opens(entry, port) and (peers is None or any(fits(peer) for peer in peers)):
                return True
    return not closed


def _is(labels: dict[str, str]) -> Callable[[Object], bool]:
    return lambda peer: (
        "podSelector" in peer and "namespaceSelector" not in peer and _matches(peer["podSelector"], labels)
    )


def _in(namespace: str) -> Callable[[Object], bool]:
    there = {"kubernetes.io/metadata.name": namespace}
    return lambda peer: "namespaceSelector" in peer and _matches(peer["namespaceSelector"], there)


@rule
def the_network_lets_through_what_is_needed(cluster: Cluster) -> Iterator[str]:
    pods = _pods(cluster)
    for who, whom, port in _ways(cluster):
        if not _allows(cluster, "egress", pods[who], port, _is(pods[whom])):
            yield f"{who} may not ask {whom} at {port}"
        if not _allows(cluster, "ingress", pods[whom], port, _is(pods[who])):
            yield f"{whom} may not be asked by {who} at {port}"
    for namespace, whom, port in _FROM_OUTSIDE:
        if not _allows(cluster, "ingress", pods[whom], port, _in(namespace)):
            yield f"{whom} may not be asked from {namespace} at {port}"
    for who, labels in pods.items():
        if not _allows(cluster, "egress", labels, 53, _in("kube-system")):
            yield f"{who} may not ask for names"


@rule
def the_network_lets_nothing_else_through(cluster: Cluster) -> Iterator[str]:
    pods = _pods(cluster)
    stranger = {"app.kubernetes.io/name": "stranger"}
    if _allows(cluster, "ingress", stranger, 8080, _in("default")) or _allows(
        cluster, "egress", stranger, 443, _in("default")
    ):
        yield "a pod that no policy names may speak to anybody"
    for whom, labels in pods.items():
        for port in (5432, 5672, 6379, 8080, 8081, 9090, 9091, 9200, 26379):
            if _allows(cluster, "ingress", labels, port, _is(stranger)) or _allows(
                cluster, "ingress", labels, port, _in("default")
            ):
                yield f"{whom} may be asked by anybody at {port}"
    for who, whom, port in (("shortener-service", "Redis", 6379), ("shortener-service", "Sentinel", 26379)):
        if _allows(cluster, "ingress", pods[whom], port, _is(pods[who])):
            yield f"{who} may ask {whom}"


# --- Budgets, stops and room


@rule
def a_budget_leaves_room_for_a_drain(cluster: Cluster) -> Iterator[str]:
    pods = _pods(cluster)
    replicas = {each["metadata"]["name"]: each["spec"]["replicas"] for each in cluster.workloads()}
    for each in cluster.of("PodDisruptionBudget"):
        chosen = [name for name, labels in pods.items() if _matches(each["spec"]["selector"], labels)]
        if len(chosen) != 1:
            yield f"{name_of(each)} selects {chosen}"
        elif chosen[0] in ("PostgreSQL", "Redis", "Sentinel"):
            yield f"{name_of(each)} is beside the operator's own: with two, no pod can be evicted"
        elif "minAvailable" in each["spec"] and each["spec"]["minAvailable"] >= replicas.get(chosen[0], 0):
            yield f"{name_of(each)} keeps every pod of {chosen[0]}, so that no node can be drained"
    covered = {each["metadata"]["name"] for each in cluster.of("PodDisruptionBudget")}
    yield from (f"{service} has no budget" for service in _SERVICES if replicas[service] > 1 and service not in covered)


@rule
def a_stop_fits_into_its_time(cluster: Cluster) -> Iterator[str]:
    for service in _SERVICES:
        workload = cluster.get("Deployment", service)
        pod = workload["spec"]["template"]["spec"]
        settings = Settings.read(cluster.environment_of(workload))
        pause = at(pod, "containers.0.lifecycle.preStop.sleep.seconds")
        needed = pause + settings.drain_delay.total_seconds() + settings.stop_timeout.total_seconds()
        if pause < 1 or needed >= at(pod, "terminationGracePeriodSeconds"):
            yield f"{service} needs {needed} s to stop and is killed after {pod['terminationGracePeriodSeconds']}"
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
def connections_suffice(cluster: Cluster) -> Iterator[str]:
    """For every pod of a rollout, even when reads go to the primary; the rest is for the operator and its exporter."""
    pods = 0
    for service in _SERVICES:
        spec = cluster.get("Deployment", service)["spec"]
        pods += spec["replicas"] + at(spec, "strategy.rollingUpdate.maxSurge")
    listener, others = 1, 20
    needed = pods * (WRITE_CONNECTIONS + 2 * READ_CONNECTIONS + listener) + others
    if int(at(postgresql(cluster), "spec.postgresql.parameters.max_connections")) < needed:
        yield f"{pods} pods may need {needed} connections"


@rule
def the_caches_fit_into_memory(cluster: Cluster) -> Iterator[str]:
    for service in _SERVICES:
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


# --- What the operators' webhooks refuse, and what they accept and should not


@rule
def postgresql_is_as_its_operator_wants(cluster: Cluster) -> Iterator[str]:
    spec = postgresql(cluster)["spec"]
    instances, waits = spec["instances"], spec["postgresql"].get("synchronous", {})
    if waits and waits["number"] >= instances:
        yield "as many standbys are waited for as there are instances"
    if instances > 2 and (waits.get("dataDurability"), waits.get("failoverQuorum")) != ("required", True):
        yield "a commit that was answered may be lost"
    if waits.get("dataDurability") == "preferred" and waits.get("failoverQuorum"):
        yield "preferred with a quorum loses commits on two instances"
    lease = spec["primaryLease"]
    if not lease["leaseDurationSeconds"] > lease["renewDeadlineSeconds"] > 1.2 * lease["retryPeriodSeconds"]:
        yield f"the lease {lease} is refused"
    if spec["stopDelay"] < spec["smartShutdownTimeout"] + 15:
        yield "stopDelay is not well above smartShutdownTimeout"
    if {"minSyncReplicas", "maxSyncReplicas"} & spec.keys():
        yield "the old words for synchronous replication are there"
    if ":" not in spec["imageName"] or spec["imageName"].endswith(":latest"):
        yield "an image without a version is refused"
    if quantity(at(spec, "resources.requests.memory")) < _megabytes(at(spec, "postgresql.parameters.shared_buffers")):
        yield "shared_buffers is larger than the memory asked for"
    if instances == 1 and spec.get("enablePDB", True):
        yield "the operator's budget for a single instance blocks every drain"
    owner = at(spec, "bootstrap.initdb")
    for service in _SERVICES:
        settings = Settings.read(cluster.environment_of(cluster.get("Deployment", service)))
        for address in filter(None, (settings.links_url, settings.links_read_url)):
            if (address.user, address.path) != (owner["owner"], owner["database"]):
                yield f"{service} asks for {address}, and the cluster has {owner}"
            if address.hosts[0][0] == "url-shortener-db-ro" and instances == 1:
                yield "a single instance has no standby to read from"


def _megabytes(text: str) -> float:
    return float(text.removesuffix("MB")) * 2**20


@rule
def rabbitmq_is_as_its_operator_wants(cluster: Cluster) -> Iterator[str]:
    spec = rabbitmq(cluster)["spec"]
    lines = dict(line.split(" = ") for line in at(spec, "rabbitmq.additionalConfig").splitlines() if line.strip())
    if lines.get("default_queue_type") != "quorum":
        yield "queues are not quorum queues by default"
    if lines.get("quorum_queue.continuous_membership_reconciliation.enabled") != "true":
        yield "a queue that was declared early stays on fewer nodes"
    if "load_definitions" in lines:
        yield "with definitions, the operator's user is never made"
    if quantity(at(spec, "persistence.storage")) < quantity("5Gi"):
        yield "so small a volume is below the disk alarm, which blocks every publisher"
    if spec.get("terminationGracePeriodSeconds", 604800) > 600:
        yield "a node may take a week to stop"
    if spec["replicas"] == 2 and spec["terminationGracePeriodSeconds"] > 60:
        yield "with two nodes a stop always takes the whole grace period"


@rule
def redis_is_as_its_operator_wants(cluster: Cluster) -> Iterator[str]:
    spec = redis(cluster)["spec"]
    servers, sentinels = spec["redis"], spec["sentinel"]
    command = " ".join(servers["command"])
    config = dict(line.split(" ", 1) for line in servers["customConfig"])
    watch = dict(line.split(" ", 1) for line in sentinels["customConfig"])
    if len(config) != len(servers["customConfig"]):
        yield "one key stands twice: the last one wins"
    if sentinels["replicas"] < servers["replicas"]:
        yield "with fewer Sentinels than servers the operator never heals"
    if "--appendonly yes" not in command:
        yield "a restarted server forgets the counts: the operator sets appendonly too late"
    if "--maxmemory-policy noeviction" not in command or config.get("maxmemory-policy") != "noeviction":
        yield "counts may be evicted"
    pause = re.search(r"sleep (\d+)", command)
    if not pause or int(pause[1]) * 1000 <= int(watch["down-after-milliseconds"]):
        yield "a master that is back before it is missed makes Sentinel wait for half a minute"
    needed = int(config.get("min-replicas-to-write", 0))
    if needed >= servers["replicas"]:
        yield "more replicas are needed for a write than there are"
    if servers["replicas"] > 2 and needed < 1:
        yield "a master that was cut off goes on accepting counts"
    if servers["terminationGracePeriod"] <= 31:
        yield "its own way to stop takes 31 s"
    if not servers.get("exporter", {}).get("enabled"):
        yield "without the exporter the operator deletes its own Service"
    address = Settings.read(cluster.environment_of(cluster.get("Deployment", "analytics-service"))).stats_url
    name = redis(cluster)["metadata"]["name"]
    if address.scheme == "redis+sentinel" and (address.hosts[0][0], address.path) != (f"rfs-{name}", "mymaster/0"):
        yield f"Sentinel does not know {address}"
    if address.scheme != "redis+sentinel" and (servers["replicas"] > 1 or address.hosts[0][0] != f"rfr-{name}"):
        yield f"{address} is no Redis that is there, or goes past Sentinel"


@rule
def jaeger_is_as_its_operator_wants(cluster: Cluster) -> Iterator[str]:
    spec = jaeger(cluster)["spec"]
    if (spec["strategy"], at(spec, "storage.type")) != ("production", "elasticsearch"):
        yield "it keeps no traces"
    for part in ("collector", "query"):
        if "replicas" not in spec[part]:
            yield f"{part}: without a number the operator scales it up to a hundred"
    if spec["collector"].get("autoscale", True):
        yield "the collector scales itself"
    es = at(spec, "storage.options.es")
    if es.get("num-replicas") != 0 and elasticsearch(cluster)["spec"]["replicas"] == 1:
        yield "one node of Elasticsearch cannot hold a copy"


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
    traces = jaeger(cluster)["spec"]
    yield from _faults_of_pod("Jaeger", {}, traces.get("securityContext", {}))
    for where in (
        traces.get("containerSecurityContext", {}),
        at(traces, "storage.esIndexCleaner").get("containerSecurityContext", {}),
    ):
        yield from _faults_of_container("Jaeger", {"securityContext": where}, True)


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
