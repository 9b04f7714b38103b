"""What a rule is, and how it finds the pods that an object is about."""

from collections.abc import Callable, Iterator

from tests.housekeeping.k8s_cluster import Cluster, Fault, Object, at
from tests.housekeeping.k8s_facts import jaeger, postgresql, rabbitmq, redis
from urlshortener.errors import WrongSetting

Rule = Callable[[Cluster], Iterator[str]]

RULES: list[Rule] = []
SERVICES = ("shortener-service", "analytics-service")


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def broken(check: Rule, cluster: Cluster) -> list[str]:
    try:
        return [f"{check.__name__}: {sentence}" for sentence in check(cluster)]
    except Fault as fault:
        return [f"{check.__name__}: {fault}"]
    except (KeyError, TypeError, ValueError, WrongSetting) as error:  # so wrong that it cannot be looked at
        return [f"{check.__name__}: {type(error).__name__}: {error}"]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for each in selector.get("matchExpressions", []):
        if each["operator"] != "In":
            raise Fault(f"nothing here knows what {each['operator']} means in a selector")
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


# The pods that operators make, by the labels that they give them.
def pods_of(cluster: Cluster) -> dict[str, dict[str, str]]:
    pods = {each["metadata"]["name"]: at(each, "spec.template.metadata.labels") for each in cluster.workloads()}
    database, broker, cache = (each(cluster)["metadata"]["name"] for each in (postgresql, rabbitmq, redis))
    traces = jaeger(cluster)["metadata"]["name"]
    poolers = {
        each["metadata"]["name"]: {"cnpg.io/poolerName": each["metadata"]["name"], "cnpg.io/podRole": "pooler"}
        for each in cluster.of("Pooler")
    }
    name, component = "app.kubernetes.io/name", "app.kubernetes.io/component"
    return (
        pods
        | poolers
        | {
            "PostgreSQL": {"cnpg.io/cluster": database, "cnpg.io/podRole": "instance"},
            "RabbitMQ": {name: broker, component: "rabbitmq"},
            "Redis": {name: cache, component: "redis"},
            "Sentinel": {name: cache, component: "sentinel"},
            "Jaeger": {"app": "jaeger", component: "collector", name: f"{traces}-collector"},
            "Jaeger's pages": {"app": "jaeger", component: "query", name: f"{traces}-query"},
            "Jaeger's cleaner": {"app": "jaeger", component: "cronjob-es-index-cleaner"},
        }
    )
