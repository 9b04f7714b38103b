"""The checks of the cluster can fail: each of these changes to what is rendered must make one of them speak up."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.housekeeping.k8s_cluster import Cluster, Object, at
from tests.housekeeping.k8s_facts import elasticsearch, ingress, jaeger, postgresql, rabbitmq, redis, wrong_facts
from tests.housekeeping.k8s_rules import faults
from tests.housekeeping.k8s_schemas import built_in, faults_of_built_in, faults_of_custom, folder_of_schemas

Break = Callable[[Cluster], None]


@pytest.fixture(scope="module")
def production() -> Cluster:
    return Cluster.rendered("prod")


def _set(find: Callable[[Cluster], Object], path: str, value: Any) -> Break:
    above, _, last = path.rpartition(".")

    def change(cluster: Cluster) -> None:
        place: Any = at(find(cluster), above) if above else find(cluster)
        place[int(last) if isinstance(place, list) else last] = value

    return change


def _drop(find: Callable[[Cluster], Object], path: str) -> Break:
    above, _, last = path.rpartition(".")

    def change(cluster: Cluster) -> None:
        place = at(find(cluster), above)
        del place[int(last) if isinstance(place, list) else last]

    return change


def _without(kind: str, name: str) -> Break:
    def change(cluster: Cluster) -> None:
        cluster.objects.remove(cluster.get(kind, name))

    return change


def _named(kind: str, name: str) -> Callable[[Cluster], Object]:
    return lambda cluster: cluster.get(kind, name)


def _replaced(find: Callable[[Cluster], Object], path: str, old: str, new: str) -> Break:
    def change(cluster: Cluster) -> None:
        before = at(find(cluster), path)
        assert old in before
        _set(find, path, before.replace(old, new))(cluster)

    return change


def _setting(name: str, value: str) -> Break:
    def change(cluster: Cluster) -> None:
        for each in cluster.of("ConfigMap"):
            if "LINKS_URL" in each["data"]:
                each["data"][name] = value

    return change


def _secret_key(variable: str, key: str) -> Break:
    def change(cluster: Cluster) -> None:
        for each in at(_SHORTENER(cluster), f"{_CONTAINER}.env"):
            if each["name"] == variable:
                each["valueFrom"]["secretKeyRef"]["key"] = key

    return change


def _with(head: Object, name: str) -> Break:
    return lambda cluster: cluster.objects.append({**head, "metadata": {"name": name}})


def _without_variable(find: Callable[[Cluster], Object], name: str) -> Break:
    def change(cluster: Cluster) -> None:
        variables = at(find(cluster), f"{_CONTAINER}.env")
        variables.remove(next(each for each in variables if each["name"] == name))

    return change


def _line(find: Callable[[Cluster], Object], path: str, old: str, new: str) -> Break:
    def change(cluster: Cluster) -> None:
        lines = at(find(cluster), path)
        lines[lines.index(old)] = new

    return change


_SHORTENER = _named("Deployment", "shortener-service")
_ANALYTICS = _named("Deployment", "analytics-service")
_COLLECTOR = _named("Deployment", "otel-collector")
_CONTAINER = "spec.template.spec.containers.0"
_POD = "spec.template.spec"
_BUDGET = _named("PodDisruptionBudget", "analytics-service")
_SERVICE = _named("Service", "shortener-service")

MUTATIONS: dict[str, Break] = {
    # numbers
    "two pods of a service": _set(_SHORTENER, "spec.replicas", 2),
    "a smaller CPU request": _set(_ANALYTICS, f"{_CONTAINER}.resources.requests.cpu", "200m"),
    "a larger memory limit": _set(_SHORTENER, f"{_CONTAINER}.resources.limits.memory", "2Gi"),
    "two instances of PostgreSQL": _set(postgresql, "spec.instances", 2),
    "fewer connections": _set(postgresql, "spec.postgresql.parameters.max_connections", "100"),
    "other shared buffers": _set(postgresql, "spec.postgresql.parameters.shared_buffers", "128MB"),
    "a smaller database volume": _set(postgresql, "spec.storage.size", "5Gi"),
    "a smaller broker volume": _set(rabbitmq, "spec.persistence.storage", "10Gi"),
    "four brokers": _set(rabbitmq, "spec.replicas", 4),
    "two Redis": _set(redis, "spec.redis.replicas", 2),
    "a smaller Sentinel": _set(redis, "spec.sentinel.resources.requests.memory", "64Mi"),
    "traces for six days": _set(jaeger, "spec.storage.esIndexCleaner.numberOfDays", 7),
    "three days of traces are found": _drop(jaeger, "spec.storage.options.es.max-span-age"),
    "another collector": _set(_COLLECTOR, f"{_CONTAINER}.image", "otel/opentelemetry-collector:0.116.0"),
    "a smaller trace volume": _set(elasticsearch, "spec.volumeClaimTemplates.0.spec.resources.requests.storage", "8Gi"),
    "a budget of three": _set(_BUDGET, "spec.minAvailable", 3),
    # names, ports, selectors
    "another host": _set(ingress, "spec.rules.0.host", "short.example.com"),
    "another host in TLS": _set(ingress, "spec.tls.0.hosts", ["short.example.com"]),
    "another class": _set(ingress, "spec.ingressClassName", "traefik"),
    "another certificate": _set(ingress, "spec.tls.0.secretName", "other-tls"),
    "a prefixed service": _set(_SERVICE, "metadata.name", "prod-shortener-service"),
    "a service on 80": _set(_SERVICE, "spec.ports.0.port", 80),
    "a service that leads nowhere": _set(_SERVICE, "spec.ports.0.targetPort", "web"),
    "a service that selects nobody": _set(_SERVICE, "spec.selector", {"app.kubernetes.io/name": "shortener"}),
    "a workload that selects others": _set(_SHORTENER, "spec.selector.matchLabels", {"app": "shortener"}),
    "a budget for nobody": _set(_BUDGET, "spec.selector.matchLabels", {"app": "analytics"}),
    "no budget": _without("PodDisruptionBudget", "shortener-service"),
    "the probes on the open door": _set(_SHORTENER, f"{_CONTAINER}.readinessProbe.httpGet.port", "http"),
    "a database of another name": _set(postgresql, "metadata.name", "db"),
    "a Redis of another name": _set(redis, "metadata.name", "redis"),
    "an address of another database": _setting("LINKS_URL", "postgresql://urlshortener@db-rw:5432/urlshortener"),
    "another database": _setting("LINKS_URL", "postgresql://urlshortener@url-shortener-db-rw:5432/links"),
    "another master": _setting("STATS_URL", "redis+sentinel://rfs-url-shortener-redis:26379/main/0"),
    "a misspelt setting": _setting("DRAIN_DELEY", "5s"),
    "a wrong value of a setting": _setting("DRAIN_DELAY", "five"),
    "another namespace for one object": _set(_SERVICE, "metadata.namespace", "default"),
    "analytics from the shortener": _set(
        ingress, "spec.rules.0.http.paths.0.backend.service.name", "shortener-service"
    ),
    "an open health": _drop(ingress, "spec.rules.0.http.paths.1"),
    # secrets
    "another key of a secret": _secret_key("LINKS_PASSWORD", "pass"),
    "another secret for Redis": _set(redis, "spec.auth.secretPath", "redis-password"),
    "another secret for Jaeger": _set(jaeger, "spec.storage.secretName", "elasticsearch"),
    # what operators refuse, or should have refused
    "waiting for as many standbys as there are": _set(postgresql, "spec.postgresql.synchronous.number", 3),
    "commits that may be lost": _set(postgresql, "spec.postgresql.synchronous.dataDurability", "preferred"),
    "a promotion without a quorum": _set(postgresql, "spec.postgresql.synchronous.failoverQuorum", False),
    "a lease that ends before it is renewed": _set(postgresql, "spec.primaryLease.leaseDurationSeconds", 2),
    "a stop without time": _set(postgresql, "spec.stopDelay", 10),
    "brokers that stop for a week": _drop(rabbitmq, "spec.terminationGracePeriodSeconds"),
    "queues that do not grow": _replaced(
        rabbitmq, "spec.rabbitmq.additionalConfig", "reconciliation.enabled = true", "reconciliation.enabled = false"
    ),
    "a log that fills the memory": _replaced(
        rabbitmq, "spec.rabbitmq.additionalConfig", "wal_max_size_bytes = 67108864", "wal_max_size_bytes = 536870912"
    ),
    "counts that are not on disk": _replaced(redis, "spec.redis.command.2", "--appendonly yes", ""),
    "counts that are evicted": _line(
        redis, "spec.redis.customConfig", "maxmemory-policy noeviction", "maxmemory-policy allkeys-lru"
    ),
    "a master that is back too soon": _replaced(redis, "spec.redis.command.2", "sleep 3", "sleep 1"),
    "a master that nobody follows": _line(
        redis, "spec.redis.customConfig", "min-replicas-to-write 1", "min-replicas-to-write 0"
    ),
    "fewer Sentinels than Redis": _set(redis, "spec.sentinel.replicas", 2),
    "a collector that scales itself": _drop(jaeger, "spec.collector.replicas"),
    "a second try after a 503": _set(
        ingress, "metadata.annotations", {"nginx.ingress.kubernetes.io/proxy-next-upstream": "error http_503"}
    ),
    "queues on two of three nodes": _replaced(
        rabbitmq, "spec.rabbitmq.additionalConfig", "target_group_size = 3", "target_group_size = 2"
    ),
    "a failover that waits": _set(postgresql, "spec.failoverDelay", 30),
    "a slower lease": _set(postgresql, "spec.primaryLease.leaseDurationSeconds", 15),
    "a primary that may thaw": _set(postgresql, "spec.probes.liveness.failureThreshold", 10),
    "a primary that is alone and goes on": _set(postgresql, "spec.probes.liveness.isolationCheck.enabled", False),
    "a class of the whole cluster": _with({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}, "longhorn"),
    # how the services are told
    "no migration before analytics": _drop(_ANALYTICS, f"{_POD}.initContainers"),
    "another migration": _set(_SHORTENER, f"{_POD}.initContainers.0.args", ["shortener"]),
    "a migration by an older image": _set(_SHORTENER, f"{_POD}.initContainers.0.image", "url-shortener:0.0.9"),
    "a migration of no known database": _drop(_SHORTENER, f"{_POD}.initContainers.0.envFrom"),
    "writes through a pooler": _setting(
        "LINKS_URL", "postgresql://urlshortener@url-shortener-db-pooler-rw:5432/urlshortener"
    ),
    "reads from the primary": _setting(
        "LINKS_READ_URL", "postgresql://urlshortener@url-shortener-db-rw:5432/urlshortener"
    ),
    "pods on one node": _drop(_SHORTENER, f"{_POD}.topologySpreadConstraints"),
    "a door that only the pod reaches": _setting("HOST", "127.0.0.1"),
    "an edge that nobody believes": _setting("TRUSTED_PROXIES", ""),
    "links to another host": _setting("PUBLIC_URL", "https://short.example.com"),
    "no traces": _setting("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
    "a header that the edge does not set": _setting("REQUEST_ID_HEADER", "X-Request-ID"),
    "a misspelt spool mode": _setting("SPOOL_MODE", "safe"),
    "visitors that nobody can tell apart": _without_variable(_SHORTENER, "VISITOR_SECRET"),
    # the pods
    "an image without a version": _set(_SHORTENER, f"{_CONTAINER}.image", "url-shortener"),
    "the latest image": _set(elasticsearch, f"{_CONTAINER}.image", "elasticsearch/elasticsearch:latest"),
    "root": _set(_ANALYTICS, f"{_POD}.securityContext.runAsNonRoot", False),
    "a writable image": _set(_SHORTENER, f"{_CONTAINER}.securityContext.readOnlyRootFilesystem", False),
    "capabilities": _drop(_SHORTENER, f"{_CONTAINER}.securityContext.capabilities"),
    "no seccomp profile": _drop(redis, "spec.redis.securityContext.seccompProfile"),
    "no drain": _drop(_SHORTENER, f"{_CONTAINER}.lifecycle"),
    "too little time to stop": _set(_SHORTENER, f"{_POD}.terminationGracePeriodSeconds", 30),
    "a spool as large as its volume": _set(_SHORTENER, f"{_POD}.volumes.0.emptyDir.sizeLimit", "800Mi"),
    # the network
    "nobody may count": _without("NetworkPolicy", "analytics-service"),
    "anybody may ask": _without("NetworkPolicy", "deny-all"),
    "Redis for all": _set(_named("NetworkPolicy", "url-shortener-redis"), "spec.ingress", [{}]),
    "a stranger at the door": _set(
        _named("NetworkPolicy", "shortener-service"),
        "spec.ingress.0.from",
        [{"podSelector": {"matchLabels": {"a": "b"}}}],
    ),
    "no names": _without("NetworkPolicy", "allow-names"),
    # spelling
    "a misspelt word of a pod": _set(_SHORTENER, f"{_POD}.terminationGraceSeconds", 45),
    "a number as a text": _set(_SHORTENER, "spec.replicas", "3"),
    "a misspelt word of PostgreSQL": _set(postgresql, "spec.failoverDelai", 0),
    "a misspelt word of Redis": _set(redis, "spec.redis.terminationGracePeriodSeconds", 60),
    "a wrong type in RabbitMQ": _set(rabbitmq, "spec.replicas", "3"),
}

_AUTOSCALER = _named("HorizontalPodAutoscaler", "shortener-service")
_POOLER = _named("Pooler", "url-shortener-db-pooler-ro")
_BACKUP = _named("ScheduledBackup", "url-shortener-db")
_MONITOR = _named("PodMonitor", "shortener-service")
_QUERIES = "spec.monitoring.customQueriesConfigMap.0"

# With the optional components on top.
MORE_MUTATIONS: dict[str, Break] = {
    "more pods than the database has connections for": _set(_AUTOSCALER, "spec.maxReplicas", 6),
    "a scale that starts below production": _set(_AUTOSCALER, "spec.minReplicas", 2),
    "an autoscaler for nobody": _set(_AUTOSCALER, "spec.scaleTargetRef.name", "shortener"),
    "an autoscaler that every apply undoes": _set(_SHORTENER, "spec.replicas", 3),
    "an autoscaler that waits for the limit": _set(
        _AUTOSCALER, "spec.metrics.0.resource.target.averageUtilization", 400
    ),
    "a pooler before the primary": _set(_POOLER, "spec.type", "rw"),
    "a pooler of another database": _set(_POOLER, "spec.cluster.name", "db"),
    "a pooler that forgets what was prepared": _drop(_POOLER, "spec.pgbouncer.parameters.max_prepared_statements"),
    "a pooler that is alone": _set(_POOLER, "spec.instances", 1),
    "a pooler without a version": _set(_POOLER, "spec.template.spec.containers.0.image", "pgbouncer"),
    "a pooler for fewer than there are": _set(_POOLER, "spec.pgbouncer.parameters.max_client_conn", "50"),
    "a pooler that nobody uses": _set(_POOLER, "metadata.name", "url-shortener-db-pooler"),
    "migrations through the pooler": _setting(
        "LINKS_URL", "postgresql://urlshortener@url-shortener-db-pooler-ro:5432/urlshortener"
    ),
    "a pooler that nobody may ask": _without("NetworkPolicy", "services-to-pooler"),
    "a pooler that may not ask": _without("NetworkPolicy", "url-shortener-db-from-pooler"),
    "a misspelt word of the pooler": _set(_POOLER, "spec.pgbouncer.poolmode", "session"),
    "backups of another database": _set(_BACKUP, "spec.cluster.name", "db"),
    "backups without the log": _drop(postgresql, "spec.plugins"),
    "backups by a plugin that is not there": _set(_BACKUP, "spec.pluginConfiguration.name", "barman"),
    "backups every minute of two hours": _set(_BACKUP, "spec.schedule", "0 2 * * *"),
    "a monitor for nobody": _set(_MONITOR, "spec.selector.matchLabels", {"app": "shortener"}),
    "a monitor at the wrong door": _set(_MONITOR, "spec.podMetricsEndpoints.0.port", "http"),
    "metrics that nobody may ask for": _without("NetworkPolicy", "url-shortener-db-metrics"),
    "an alert that a missing standby leaves silent": _set(postgresql, "spec.instances", 4),
    "standbys that nobody counts": _drop(postgresql, "spec.monitoring"),
    "a count of standbys that is nowhere": _without("ConfigMap", "url-shortener-db-queries"),
    "a count of standbys under another key": _set(postgresql, f"{_QUERIES}.key", "queries"),
}


@pytest.fixture(scope="module")
def with_components() -> Cluster:
    return Cluster.rendered_with("autoscaling", "backups", "monitoring", "pooler")


def _everything_wrong(cluster: Cluster) -> set[str]:
    found = set(wrong_facts(cluster)) | set(faults(cluster))
    for each in cluster.objects:
        found |= set(faults_of_built_in(each) if built_in(each) else faults_of_custom(each, folder_of_schemas()))
    return found


def _is_seen(cluster: Cluster, mutation: Break) -> None:
    broken = cluster.copy()
    mutation(broken)
    assert broken.objects != cluster.objects
    assert _everything_wrong(broken) - _everything_wrong(cluster)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_seen(production: Cluster, name: str) -> None:
    _is_seen(production, MUTATIONS[name])


@pytest.mark.parametrize("name", MORE_MUTATIONS)
def test_a_mistake_in_an_optional_component_is_seen(with_components: Cluster, name: str) -> None:
    _is_seen(with_components, MORE_MUTATIONS[name])
