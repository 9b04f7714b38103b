"""Network policies: who may ask whom."""

import itertools
from collections.abc import Callable, Iterator

from tests.housekeeping.k8s_cluster import Cluster, Object
from tests.housekeeping.k8s_rule import SERVICES, matches, pods_of, rule


# Who must reach whom, at which port of the pod.
def _ways(cluster: Cluster) -> Iterator[tuple[str, str, int]]:
    for service in SERVICES:
        yield service, "PostgreSQL", 5432
        yield service, "RabbitMQ", 5672
        yield service, "otel-collector", 4317
    yield "analytics-service", "Redis", 6379
    yield "analytics-service", "Sentinel", 26379
    yield "otel-collector", "Jaeger", 4317
    yield "Jaeger", "elasticsearch", 9200
    yield "Jaeger's pages", "elasticsearch", 9200
    yield "Jaeger's cleaner", "elasticsearch", 9200
    for pods, ports in (("PostgreSQL", (5432, 8000)), ("RabbitMQ", (4369, 25672, 35672, 35682)), ("Redis", (6379,))):
        if cluster.environment != "dev":
            yield from ((pods, pods, port) for port in ports)
    for pooler in cluster.of("Pooler"):
        yield from ((service, pooler["metadata"]["name"], 5432) for service in SERVICES)
        yield pooler["metadata"]["name"], "PostgreSQL", 5432
    yield "Sentinel", "Redis", 6379
    yield "Sentinel", "Sentinel", 26379


# Who reaches in from other namespaces.
_FROM_OUTSIDE = (
    ("ingress-nginx", "shortener-service", 8080),
    ("ingress-nginx", "analytics-service", 8081),
    ("nginx-ingress", "shortener-service", 8080),
    ("cnpg-system", "PostgreSQL", 5432),
    ("cnpg-system", "PostgreSQL", 8000),
    ("rabbitmq-system", "RabbitMQ", 15672),
    ("redis-operator", "Redis", 6379),
    ("redis-operator", "Sentinel", 26379),
)


def _opens(entry: Object, port: int, protocol: str = "TCP") -> bool:
    ports = entry.get("ports")
    return ports is None or any(
        each["port"] <= port <= each.get("endPort", each["port"]) and each.get("protocol", "TCP") == protocol
        for each in ports
    )


def _allows(
    cluster: Cluster,
    side: str,
    pod: dict[str, str],
    port: int,
    fits: Callable[[Object], bool],
    protocol: str = "TCP",
) -> bool:
    """One open door is enough; where no policy selects a pod for this side, every door is open."""
    direction = {"ingress": "Ingress", "egress": "Egress"}[side]
    closed = False
    for policy in cluster.of("NetworkPolicy"):
        spec = policy["spec"]
        if not matches(spec["podSelector"], pod) or direction not in spec["policyTypes"]:
            continue
        closed = True
        for entry in spec.get(side, []):
            peers = entry.get("from" if side == "ingress" else "to")
            if _opens(entry, port, protocol) and (peers is None or any(fits(peer) for peer in peers)):
                return True
    return not closed


def _is(labels: dict[str, str]) -> Callable[[Object], bool]:
    return lambda peer: (
        "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], labels)
    )


def _in(namespace: str) -> Callable[[Object], bool]:
    there = {"kubernetes.io/metadata.name": namespace}
    return lambda peer: "namespaceSelector" in peer and matches(peer["namespaceSelector"], there)


@rule
def the_network_lets_through_what_is_needed(cluster: Cluster) -> Iterator[str]:
    pods = pods_of(cluster)
    for who, whom, port in _ways(cluster):
        if not _allows(cluster, "egress", pods[who], port, _is(pods[whom])):
            yield f"{who} may not ask {whom} at {port}"
        if not _allows(cluster, "ingress", pods[whom], port, _is(pods[who])):
            yield f"{whom} may not be asked by {who} at {port}"
    for namespace, whom, port in _FROM_OUTSIDE:
        if not _allows(cluster, "ingress", pods[whom], port, _in(namespace)):
            yield f"{whom} may not be asked from {namespace} at {port}"
    for who, labels in pods.items():
        for protocol in ("UDP", "TCP"):
            if not _allows(cluster, "egress", labels, 53, _in("kube-system"), protocol):
                yield f"{who} may not ask for names by {protocol}"
    poolers = [each["metadata"]["name"] for each in cluster.of("Pooler")]
    for who, port in itertools.product(("PostgreSQL", "RabbitMQ", *poolers), (443, 6443)):
        if not _allows(cluster, "egress", pods[who], port, _in("default")):
            yield f"{who} may not ask the API server at {port}"


def _guests(cluster: Cluster, pod: dict[str, str], port: int) -> set[str]:
    """The namespaces that may ask such a pod; whoever else may, as the policy writes him."""
    found = set()
    for policy in cluster.of("NetworkPolicy"):
        if not matches(policy["spec"]["podSelector"], pod):
            continue
        for entry in policy["spec"].get("ingress", []):
            for peer in entry.get("from", [{}]) if _opens(entry, port) else []:
                (asked,) = peer.get("namespaceSelector", {}).get("matchExpressions", [{"values": [str(peer)]}])
                found |= set(asked["values"])
    return found


@rule
def the_network_lets_nothing_else_through(cluster: Cluster) -> Iterator[str]:
    pods = pods_of(cluster)
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
    for whom, port in (
        ("shortener-service", 8080),
        ("analytics-service", 8081),
    ):  # whose word about visitors is believed
        if _guests(cluster, pods[whom], port) != {"ingress-nginx", "nginx-ingress"}:
            yield f"{whom} may be asked from {_guests(cluster, pods[whom], port)}"
    for who, whom, port in (("shortener-service", "Redis", 6379), ("shortener-service", "Sentinel", 26379)):
        if _allows(cluster, "ingress", pods[whom], port, _is(pods[who])):
            yield f"{who} may ask {whom}"
