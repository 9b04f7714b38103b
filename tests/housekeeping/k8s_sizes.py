"""What an environment asks a cluster for, in all."""

from tests.housekeeping.k8s_cluster import Cluster, Object, at, quantity
from tests.housekeeping.k8s_facts import elasticsearch, jaeger, postgresql, rabbitmq, redis
from tests.housekeeping.k8s_tables import CHECKOUT, tables

_GIGA = 2**30
_OF_A_POD = "spec.template.spec.containers.0.resources.requests"


def _sum(parts: list[tuple[int, Object]]) -> tuple[float, float]:
    return (
        sum(count * quantity(requests["cpu"]) for count, requests in parts),
        sum(count * quantity(requests["memory"]) for count, requests in parts),
    )


def _shown(cpu: float, memory: float) -> str:
    return f"{cpu:.2f} CPU, {memory / _GIGA:.2f} Gi"


def asked_for(cluster: Cluster) -> tuple[dict[str, str], dict[str, str]]:
    """By what is rendered, and by docs/sizing.md."""
    database, broker, cache = postgresql(cluster)["spec"], rabbitmq(cluster)["spec"], redis(cluster)["spec"]
    traces = jaeger(cluster)["spec"]
    services = ("shortener-service", "analytics-service")

    def deployment(name: str) -> tuple[int, Object]:
        thing = cluster.get("Deployment", name)
        return cluster.pods(name)[0], at(thing, _OF_A_POD)

    groups: dict[str, list[tuple[int, Object]]] = {
        "services": [deployment(name) for name in services],
        "PostgreSQL": [(database["instances"], at(database, "resources.requests"))],
        "RabbitMQ": [(broker["replicas"], at(broker, "resources.requests"))],
        "Redis and Sentinel": [
            (cache["redis"]["replicas"], at(cache, "redis.resources.requests")),
            (cache["redis"]["replicas"], at(cache, "redis.exporter.resources.requests")),
            (cache["sentinel"]["replicas"], at(cache, "sentinel.resources.requests")),
        ],
        "tracing": [
            deployment("otel-collector"),
            (traces["collector"]["replicas"], at(traces, "collector.resources.requests")),
            (traces["query"]["replicas"], at(traces, "query.resources.requests")),
            (1, at(elasticsearch(cluster), _OF_A_POD)),
        ],
    }
    groups["together"] = [part for parts in list(groups.values()) for part in parts]
    page = tables((CHECKOUT / "docs" / "sizing.md").read_text())["Requests"]
    return (
        {name: _shown(*_sum(parts)) for name, parts in groups.items()},
        {name: page[name][cluster.environment] for name in page.rows},
    )
