"""What a pod names inside itself is there, what it asks by name is somebody, and no two that must not share a node."""

import re
from collections.abc import Iterator

import yaml  # type: ignore[import-untyped]

from tests.housekeeping.k8s_cluster import Cluster, Fault, Object, at, name_of, quantity
from tests.housekeeping.k8s_facts import elasticsearch, jaeger, postgresql, rabbitmq, redis
from tests.housekeeping.k8s_rule import SERVICES, matches, pods_of, rule
from urlshortener.settings import Settings

_HOSTNAME = "kubernetes.io/hostname"


def _containers(workload: Object) -> list[Object]:
    pod = workload["spec"]["template"]["spec"]
    return [*pod["containers"], *pod.get("initContainers", [])]


@rule
def what_a_pod_names_is_in_it(cluster: Cluster) -> Iterator[str]:
    for each in cluster.workloads():
        pod, claims = each["spec"]["template"]["spec"], each["spec"].get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in pod.get("volumes", [])} | {at(c, "metadata.name") for c in claims}
        mounted = {mount["name"] for container in _containers(each) for mount in container.get("volumeMounts", [])}
        yield from (f"{name_of(each)}: the volume {name} is not both there and used" for name in volumes ^ mounted)
        for container in _containers(each):
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asks = container.get(probe, {})
                port = asks.get("httpGet", asks.get("tcpSocket", {})).get("port")
                if port is not None and port not in ports and port not in ports.values():
                    yield f"{name_of(each)}: its {probe} asks at {port}, where nobody listens"


@rule
def the_services_are_themselves_and_have_somewhere_to_write(cluster: Cluster) -> Iterator[str]:
    for service in SERVICES:
        workload = cluster.get("Deployment", service)
        pod = workload["spec"]["template"]["spec"]
        if at(pod, "containers.0.args") != [service.removesuffix("-service")]:
            yield f"{service} runs {pod['containers'][0]['args']}"
        user = {at(pod, f"securityContext.{word}") for word in ("runAsUser", "runAsGroup")}
        if len(user | {pod["securityContext"].get("fsGroup", *user)}) != 1:
            yield f"{service} may not write to its own volumes"
        for container in _containers(workload):
            if "/tmp" not in {mount["mountPath"] for mount in container["volumeMounts"]}:
                yield f"{service}, {container['name']}: its image cannot be written, and there is no /tmp"


@rule
def addresses_lead_to_somebody(cluster: Cluster) -> Iterator[str]:
    known = {
        (each["metadata"]["name"], port["port"]) for each in cluster.of("Service") for port in each["spec"]["ports"]
    }
    known |= {(f"{postgresql(cluster)['metadata']['name']}-{kind}", 5432) for kind in ("rw", "ro", "r")}
    known |= {(each["metadata"]["name"], 5432) for each in cluster.of("Pooler")}
    known |= {(rabbitmq(cluster)["metadata"]["name"], 5672)}
    known |= {(f"rfs-{redis(cluster)['metadata']['name']}", 26379), (f"rfr-{redis(cluster)['metadata']['name']}", 6379)}
    known |= {(f"{jaeger(cluster)['metadata']['name']}-collector", 4317)}
    for who, host, port in _asked(cluster):
        if (host, port) not in known:
            yield f"{who} asks {host}:{port}, which is nobody"


def _asked(cluster: Cluster) -> Iterator[tuple[str, str, int]]:
    for service in SERVICES:
        settings = Settings.read(cluster.environment_of(cluster.get("Deployment", service)))
        for address in (settings.links_url, settings.links_read_url, settings.events_url, settings.stats_url):
            yield from ((service, host, port) for host, port in (address.hosts if address else ()))
        yield (service, *_host_and_port(settings.otel_exporter_otlp_endpoint))
    yield ("Jaeger", *_host_and_port(at(jaeger(cluster), "spec.storage.options.es.server-urls")))
    _, _, configuration = _collector(cluster)
    yield ("the collector", *_host_and_port(f"//{at(configuration, 'exporters.otlp/jaeger.endpoint')}"))


def _host_and_port(url: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:http:)?//([\w.-]+):(\d+)", url)
    if not found:
        raise Fault(f"{url!r} is no address")
    return found[1], int(found[2])


def _collector(cluster: Cluster) -> tuple[Object, str, Object]:
    """Its container, the file that it reads, and what stands there."""
    container = at(cluster.get("Deployment", "otel-collector"), "spec.template.spec.containers.0")
    file = next((word.removeprefix("--config=") for word in container["args"] if word.startswith("--config=")), "")
    folder, _, name = file.rpartition("/")
    if folder not in {mount["mountPath"] for mount in container["volumeMounts"]}:
        raise Fault(f"the collector reads {file}, which is mounted nowhere")
    volume = at(cluster.get("Deployment", "otel-collector"), "spec.template.spec.volumes.0.configMap.name")
    return container, file, yaml.safe_load(at(cluster.get("ConfigMap", volume), "data")[name])


@rule
def the_collector_listens_where_it_is_asked(cluster: Cluster) -> Iterator[str]:
    container, _, configuration = _collector(cluster)
    listens = {
        "otlp-grpc": at(configuration, "receivers.otlp.protocols.grpc.endpoint"),
        "metrics": at(configuration, "exporters.prometheus.endpoint"),
        "health": at(configuration, "extensions.health_check.endpoint"),
    }
    own = at(configuration, "service.telemetry.metrics.readers.0.pull.exporter.prometheus")
    listens["own-metrics"] = f"{own['host']}:{own['port']}"
    if {port["name"]: f"0.0.0.0:{port['containerPort']}" for port in container["ports"]} != listens:
        yield f"the collector's ports are {container['ports']}, and it listens at {listens}"
    if {at(container, f"{probe}.httpGet.port") for probe in ("livenessProbe", "readinessProbe")} != {"health"}:
        yield "the collector is asked for its health elsewhere"
    if {at(container, f"{probe}.httpGet.path") for probe in ("livenessProbe", "readinessProbe")} != {"/"}:
        yield "the collector has no such page of health"
    context = at(cluster.get("Deployment", "otel-collector"), "spec.template.spec.securityContext")
    if (context["runAsUser"], context["runAsGroup"]) != (10001, 10001):
        yield "the collector is not the user of its image"
    garbage = next((each["value"] for each in container["env"] if each["name"] == "GOMEMLIMIT"), "0MiB")
    limit = quantity(at(container, "resources.limits.memory"))
    if not 0.7 * limit < quantity(garbage.removesuffix("B")) < 0.9 * limit:
        yield f"the collector collects its garbage at {garbage}, and is killed at {limit}"


@rule
def no_two_of_a_kind_share_a_node(cluster: Cluster) -> Iterator[str]:
    pods = pods_of(cluster)
    affinity = at(postgresql(cluster), "spec.affinity")
    if affinity != {"enablePodAntiAffinity": True, "podAntiAffinityType": "required", "topologyKey": _HOSTNAME}:
        yield f"PostgreSQL's instances may share a node: {affinity}"
    spec = redis(cluster)["spec"]
    for kind, place in (
        ("RabbitMQ", rabbitmq(cluster)["spec"]),
        ("Redis", spec["redis"]),
        ("Sentinel", spec["sentinel"]),
    ):
        for term in at(place, "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution"):
            chosen = {name for name, labels in pods.items() if matches(term["labelSelector"], labels)}
            if term["topologyKey"] != _HOSTNAME or chosen != {kind}:
                yield f"{kind} keeps away from {chosen} by {term['topologyKey']}"
    for each in cluster.of("Deployment"):
        for spread in at(each, "spec.template.spec.topologySpreadConstraints"):
            if (spread["topologyKey"], spread["maxSkew"], spread["matchLabelKeys"]) != (
                _HOSTNAME,
                1,
                ["pod-template-hash"],
            ):
                yield f"{name_of(each)} is spread by {spread}"


@rule
def elasticsearch_starts_and_keeps_what_it_is_told(cluster: Cluster) -> Iterator[str]:
    workload = elasticsearch(cluster)
    container, pod = at(workload, "spec.template.spec.containers.0"), at(workload, "spec.template.spec")
    given = {each["name"]: each.get("value", "from a secret") for each in container["env"]}
    heap = re.fullmatch(r"-Xms(\d+)g -Xmx\1g", given.pop("ES_JAVA_OPTS", ""))
    if not heap or 2 * int(heap[1]) * 2**30 > quantity(at(container, "resources.limits.memory")):
        yield "its heap is not half of its memory"
    if given != {
        "discovery.type": "single-node",
        "node.store.allow_mmap": "false",
        "xpack.security.enabled": "true",
        "xpack.security.http.ssl.enabled": "false",
        "ELASTIC_PASSWORD": "from a secret",
    }:
        yield f"it is told {given}"
    if workload["spec"]["replicas"] != 1 or not cluster.has("Service", workload["spec"]["serviceName"]):
        yield "it is not one, behind a Service"
    if [mount["mountPath"] for mount in container["volumeMounts"]] != ["/usr/share/elasticsearch/data"]:
        yield "its data is not on its volume"
    if {at(pod, f"securityContext.{word}") for word in ("runAsUser", "runAsGroup", "fsGroup")} != {1000}:
        yield "its volume belongs to somebody else than the user of its image"
    if pod.get("enableServiceLinks", True):
        yield "it takes variables of Services for settings"
    asks = " ".join(at(container, "readinessProbe.exec.command"))
    if not asks.startswith("sh -c curl") or "$ELASTIC_PASSWORD" not in asks or ":9200/_cluster/health" not in asks:
        yield f"it is ready when {asks}"
