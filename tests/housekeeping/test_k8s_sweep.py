"""No word and no number of production can be changed unseen, except those that are free, which are listed with why."""

import re
from collections.abc import Iterator
from typing import Any

from tests.housekeeping.k8s_cluster import Cluster, Object
from tests.housekeeping.k8s_facts import wrong_facts
from tests.housekeeping.k8s_rules import faults
from tests.housekeeping.k8s_schemas import built_in, faults_of_built_in, faults_of_custom, folder_of_schemas
from tests.housekeeping.k8s_sizes import asked_for

COMPONENTS = ("autoscaling", "backups", "monitoring", "pooler")
Path = tuple[str | int, ...]

# What may be another value: a pattern of `Kind name path`, and why.
FREE: dict[str, str] = {
    r"^NetworkPolicy \S+ metadata\.name$": "nobody names a policy",
    r"^NetworkPolicy url-shortener-rabbitmq .*endPort$": "the range of its tools may end a little later",
    r"^PodDisruptionBudget (otel-collector|url-shortener-rabbitmq) metadata\.name$": "nor these",
    r"(containers|initContainers)\.\d+\.name$": "a container's name is for people",
    r"^Service (elasticsearch|otel-collector) spec\.ports\.0\.(name|appProtocol)$": "and so is an inner port's",
    r"^Service nowhere spec\.ports\.0\.port$": "nobody is there",
    r"\.(image|imageName)$": "a mirror of the same version is as good",
    r"(livenessProbe|startupProbe)\.(periodSeconds|failureThreshold)$": "a little more patience does no harm",
    r"startupProbe\.timeoutSeconds$": "the same",
    r"(otel-collector|elasticsearch) .*(readiness|liveness)Probe\.(period|timeout)Seconds$": "traces may wait",
    r"terminationGracePeriod(Seconds)?$": "more than is needed is waited for by nobody",
    r"otel-collector .*(enableServiceLinks|readOnly)$": "it reads no variables, and its root cannot be written anyway",
    r"^RedisFailover .*sentinel\.customConfig\.2$": "how many replicas follow a new master at once",
    r"^RedisFailover .*persistentVolumeClaim\.metadata\.name$": "the operator uses it, whatever it is",
    r"^Jaeger .*(index-prefix|runAsUser)$": "any will do",
    r"^Cluster .*(startDelay|stopDelay)$": "upper limits",
    r"^RabbitmqCluster .*delayStartSeconds$": "the same",
    r"^StatefulSet .*volumeClaimTemplates.*labels": "for people",
}


def _leaves(thing: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(thing, dict | list):
        for key, value in thing.items() if isinstance(thing, dict) else enumerate(thing):
            yield from _leaves(value, (*path, key))
    elif thing is not None:
        yield path, thing


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 7 if isinstance(value, int) else f"x{value}"


def _is_seen(cluster: Cluster, changed: Object, known: set[str]) -> bool:
    if (set(wrong_facts(cluster)) | set(faults(cluster))) - known:
        return True
    rows, expected = asked_for(cluster)
    return rows != expected or bool(
        list(faults_of_built_in(changed) if built_in(changed) else faults_of_custom(changed, folder_of_schemas()))
    )


def unseen(cluster: Cluster, besides: Cluster | None = None) -> list[str]:
    """Every value that can be changed without a word from any check; of what is new, where another cluster is given."""
    known = set(wrong_facts(cluster)) | set(faults(cluster))
    found = []
    for each in cluster.objects:
        if besides and each in besides.objects:
            continue
        name = each["metadata"]["name"]
        for path, value in list(_leaves(each)):
            place: Any = each
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = _other(value)
            if not _is_seen(cluster, each, known):
                found.append(f"{each['kind']} {name} {'.'.join(map(str, path))}")
            place[path[-1]] = value
    return found


def test_whatever_is_changed_is_seen_or_free() -> None:
    left = unseen(Cluster.rendered("prod"))
    assert [each for each in left if not any(re.search(pattern, each) for pattern in FREE)] == []
    assert [pattern for pattern in FREE if not any(re.search(pattern, each) for each in left)] == []


# The same for what the optional components add.
FREE_OPTIONAL: dict[str, str] = {
    r"^(HorizontalPodAutoscaler|PodMonitor|ScheduledBackup) \S+ metadata\.name$": "nobody names these",
    r"^PrometheusRule ": "tests/monitoring plays them",
    r"^ConfigMap url-shortener-dashboard (data|metadata\.name)": "a test of its own makes it anew",
    r"^HorizontalPodAutoscaler .*(stabilizationWindowSeconds|averageUtilization)$": "up to the limit, a choice",
    r"^ConfigMap .*cnpg\.io/reload$": "that it is there is what counts",
    r"^Cluster .*barmanObjectName$": "yours; docs/backups.md is held to it",
    r"^Pooler .*\.image$": "as in production",
}


def test_whatever_is_changed_in_optional_components_is_seen_or_free() -> None:
    left = unseen(Cluster.rendered_with(*COMPONENTS), Cluster.rendered("prod"))
    free = FREE | FREE_OPTIONAL
    assert [each for each in left if not any(re.search(pattern, each) for pattern in free)] == []
    assert [pattern for pattern in FREE_OPTIONAL if not any(re.search(pattern, each) for each in left)] == []
