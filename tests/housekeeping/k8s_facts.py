"""Where each fact of docs/infrastructure.md stands in the rendered objects. Holds no number of its own."""

from collections.abc import Callable

from tests.housekeeping.k8s_cluster import Cluster, Fault, Object, at
from tests.housekeeping.k8s_tables import Table, ours

Read = Callable[[Cluster], str]

_ABSENT = "–"


def _pods(service: str) -> Read:
    return lambda cluster: str(cluster.pods(service)[0])


def _kept_through_a_drain(cluster: Cluster) -> str:
    kept = set()
    for service in ("shortener-service", "analytics-service"):
        has = cluster.has("PodDisruptionBudget", service)
        kept.add(str(at(cluster.get("PodDisruptionBudget", service), "spec.minAvailable")) if has else _ABSENT)
    if len(kept) > 1:
        raise Fault("the two services have different disruption budgets")
    return kept.pop()


def postgresql(cluster: Cluster) -> Object:
    return cluster.get("Cluster", "url-shortener-db")


def rabbitmq(cluster: Cluster) -> Object:
    return cluster.get("RabbitmqCluster", "url-shortener-rabbitmq")


def redis(cluster: Cluster) -> Object:
    return cluster.get("RedisFailover", "url-shortener-redis")


def jaeger(cluster: Cluster) -> Object:
    return cluster.get("Jaeger", "jaeger")


def elasticsearch(cluster: Cluster) -> Object:
    return cluster.get("StatefulSet", "elasticsearch")


def ingress(cluster: Cluster) -> Object:
    return cluster.get("Ingress", "url-shortener")


def _standbys(cluster: Cluster) -> str:
    waits = postgresql(cluster)["spec"]["postgresql"].get("synchronous")
    return f"{waits['number']} {waits['dataDurability']}" if waits else _ABSENT


def _one(what: str, found: set[str]) -> str:
    if len(found) != 1:
        raise Fault(f"{what}: not one but {sorted(found)}")
    return found.pop()


def _counts(cluster: Cluster) -> str:
    url = cluster.environment_of(cluster.get("Deployment", "analytics-service")).get("STATS_URL", "")
    return url.partition("://")[2].partition("/")[0]


def _host(cluster: Cluster) -> str:
    spec = ingress(cluster)["spec"]
    return _one("host", {each["host"] for each in spec["rules"]} | {h for tls in spec["tls"] for h in tls["hosts"]})


def _namespace(cluster: Cluster) -> str:
    inside = {each["metadata"].get("namespace", "") for each in cluster.objects if each["kind"] != "Namespace"}
    return _one("namespace", inside | {each["metadata"]["name"] for each in cluster.of("Namespace")})


ENVIRONMENTS: dict[str, Read] = {
    "namespace": _namespace,
    "host": _host,
    "pods of shortener-service": _pods("shortener-service"),
    "pods of analytics-service": _pods("analytics-service"),
    "kept through a drain, of each service": _kept_through_a_drain,
    "instances of PostgreSQL": lambda c: str(at(postgresql(c), "spec.instances")),
    "standbys that a commit waits for": _standbys,
    "nodes of RabbitMQ": lambda c: str(at(rabbitmq(c), "spec.replicas")),
    "Redis": lambda c: str(at(redis(c), "spec.redis.replicas")),
    "Sentinel": lambda c: str(at(redis(c), "spec.sentinel.replicas")),
    "where counts are written": _counts,
}

_OF_A_POD = "spec.template.spec.containers.0.resources"
_CLAIM = "resources.requests.storage"

# Where a system's resources and the size of its volume stand.
SIZES: dict[str, tuple[Callable[[Cluster], Object], str, str]] = {
    "shortener-service": (lambda c: c.get("Deployment", "shortener-service"), _OF_A_POD, ""),
    "analytics-service": (lambda c: c.get("Deployment", "analytics-service"), _OF_A_POD, ""),
    "PostgreSQL": (postgresql, "spec.resources", "spec.storage.size"),
    "RabbitMQ": (rabbitmq, "spec.resources", "spec.persistence.storage"),
    "Redis": (redis, "spec.redis.resources", f"spec.redis.storage.persistentVolumeClaim.spec.{_CLAIM}"),
    "Sentinel": (redis, "spec.sentinel.resources", ""),
    "Elasticsearch": (elasticsearch, _OF_A_POD, f"spec.volumeClaimTemplates.0.spec.{_CLAIM}"),
}
_COLUMNS = {
    "CPU request": "requests.cpu",
    "memory request": "requests.memory",
    "CPU limit": "limits.cpu",
    "memory limit": "limits.memory",
}


def _storage_class(cluster: Cluster) -> str:
    return _one(
        "class of volumes",
        {
            str(at(postgresql(cluster), "spec.storage.storageClass")),
            str(at(rabbitmq(cluster), "spec.persistence.storageClassName")),
            str(at(redis(cluster), "spec.redis.storage.persistentVolumeClaim.spec.storageClassName")),
            str(at(elasticsearch(cluster), "spec.volumeClaimTemplates.0.spec.storageClassName")),
        },
    )


def _trace_days(cluster: Cluster) -> str:
    """The days that are kept and the days that are searched: the fewer of both. The cleaner counts today as one."""
    storage = at(jaeger(cluster), "spec.storage")
    kept = int(at(storage, "esIndexCleaner.numberOfDays")) - 1
    searched = str(at(storage, "options.es.max-span-age"))
    if not at(storage, "esIndexCleaner.enabled") or searched != f"{kept * 24}h":
        raise Fault(f"traces are kept for {kept} days and searched for {searched}")
    return f"{kept} days"


SETTINGS: dict[str, Read] = {
    "class of the Ingress": lambda c: str(at(ingress(c), "spec.ingressClassName")),
    "secret with the certificate": lambda c: str(at(ingress(c), "spec.tls.0.secretName")),
    "PostgreSQL max_connections": lambda c: str(at(postgresql(c), "spec.postgresql.parameters.max_connections")),
    "PostgreSQL shared_buffers": lambda c: str(at(postgresql(c), "spec.postgresql.parameters.shared_buffers")),
    "class of volumes": _storage_class,
    "traces are kept for": _trace_days,
}

# The class is made by the install script: the flag there that each of these rows becomes.
SETTINGS_OF_THE_SCRIPT = {
    "copies of a volume": "persistence.defaultClassReplicaCount",
    "locality of a volume's data": "persistence.defaultDataLocality",
}


def _tags(cluster: Cluster, word: str) -> set[str]:
    return {image.rsplit(":", 1)[1] for image in images(cluster) if word in image.rsplit(":", 1)[0]}


VERSIONS: dict[str, Read] = {
    "OpenTelemetry collector": lambda c: _one("collector", _tags(c, "opentelemetry-collector")),
    "Jaeger": lambda c: _one("Jaeger", _tags(c, "jaegertracing/")),
    "Elasticsearch": lambda c: _one("Elasticsearch", _tags(c, "elasticsearch/elasticsearch")),
}


def images(cluster: Cluster) -> set[str]:
    """Every image, wherever it is named."""
    found = set[str]()

    def look(thing: object) -> None:
        if isinstance(thing, dict):
            found.update(thing[key] for key in ("image", "imageName") if isinstance(thing.get(key), str))
            for each in thing.values():
                look(each)
        elif isinstance(thing, list):
            for each in thing:
                look(each)

    look(cluster.objects)
    return found


_JAEGER_URL = "spec.storage.options.es.server-urls"

# For each address: every text of the rendered objects in which it must stand.
ADDRESSES: dict[str, Callable[[Cluster], list[str]]] = {
    "the Ingress: everything": lambda c: [_backend(c, "/")],
    "the Ingress: counts": lambda c: [_backend(c, "/api/v1/analytics")],
    "services: writes": lambda c: _variable(c, "LINKS_URL"),
    "services: events": lambda c: _variable(c, "EVENTS_URL"),
    "analytics-service: counts": lambda c: _variable(c, "STATS_URL")[1:] if c.environment != "dev" else [],
    "services: traces": lambda c: _variable(c, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "the collector: traces": lambda c: [
        "".join(each["data"].get("collector-config.yaml", "") for each in c.of("ConfigMap"))
    ],
    "Jaeger: traces": lambda c: [str(at(jaeger(c), _JAEGER_URL))],
}


def _variable(cluster: Cluster, name: str) -> list[str]:
    services = [cluster.get("Deployment", service) for service in ("shortener-service", "analytics-service")]
    return [cluster.environment_of(each).get(name, "") for each in services]


def _backend(cluster: Cluster, path: str) -> str:
    for each in at(ingress(cluster), "spec.rules.0.http.paths"):
        if each["path"] == path:
            service, port = each["backend"]["service"]["name"], each["backend"]["service"]["port"]
            for door in at(cluster.get("Service", service), "spec.ports"):
                if door.get("name") == port.get("name") or door["port"] == port.get("number"):
                    return f"{service}:{door['port']}"
            raise Fault(f"the Ingress asks {service} at {port}, which it does not have")
    raise Fault(f"the Ingress has no path {path}")


def wrong_facts(cluster: Cluster) -> list[str]:
    """Every row of the page that is not true of these objects."""
    page = ours()
    wrong = []
    for heading, facts, column in (
        ("Environments", ENVIRONMENTS, cluster.environment),
        ("Settings", SETTINGS, "value"),
        ("Versions", VERSIONS, "version"),
    ):
        for row, read in facts.items():
            wrong += _differs(f"{heading}, {row}", page[heading][row][column], read, cluster)
    for system, (find, resources, volume) in SIZES.items():
        for column, path in _COLUMNS.items():
            wrong += _differs(
                f"{system}, {column}", page["Sizes"][system][column], _text_at(find, f"{resources}.{path}"), cluster
            )
        if volume:
            wrong += _differs(f"{system}, volume", page["Sizes"][system]["volume"], _text_at(find, volume), cluster)
    for row, texts in ADDRESSES.items():
        expected = page["Addresses"][row]["at"]
        wrong += [
            f"{row}: {expected} is not in {text!r}" for text in _tried(texts, cluster) if not _names(text, expected)
        ]
    return wrong


def _text_at(find: Callable[[Cluster], Object], path: str) -> Read:
    return lambda cluster: str(at(find(cluster), path))


def _tried(texts: Callable[[Cluster], list[str]], cluster: Cluster) -> list[str]:
    try:
        return texts(cluster)
    except Fault as fault:
        return [str(fault)]


def _names(text: str, address: str) -> bool:
    """As a whole, not as the end of another name."""
    return any(f"{before}{address}" in f" {text}" for before in (" ", "//", "@"))


def _differs(what: str, expected: str, read: Read, cluster: Cluster) -> list[str]:
    try:
        found = read(cluster)
    except Fault as fault:
        return [f"{what}: {fault}"]
    return [] if found == expected else [f"{what}: {found}, and the page says {expected}"]


def rows_without_a_check() -> list[str]:
    """Rows of the page's tables that nothing here or in the tests of the script looks at, and the reverse."""
    page = ours()
    known: dict[str, set[str]] = {
        "Environments": set(ENVIRONMENTS),
        "Sizes": set(SIZES),
        "Settings": set(SETTINGS) | set(SETTINGS_OF_THE_SCRIPT),
        "Versions": set(VERSIONS),
        "Addresses": set(ADDRESSES),
    }
    return [f"{heading}: {row}" for heading, rows in known.items() for row in _rows(page[heading]) ^ rows]


def _rows(table: Table) -> set[str]:
    return set(table.rows)
