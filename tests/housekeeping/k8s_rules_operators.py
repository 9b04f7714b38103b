"""What the operators' webhooks refuse, and what they accept and should not."""

import re
from collections.abc import Iterator

from tests.housekeeping.k8s_cluster import Cluster, Object, at, quantity
from tests.housekeeping.k8s_facts import elasticsearch, jaeger, postgresql, rabbitmq, redis
from tests.housekeeping.k8s_rule import SERVICES, rule
from urlshortener.settings import Settings


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
    if lease["leaseDurationSeconds"] > 3:
        yield "after a crash a failover waits longer than it must for the lease"
    if spec.get("failoverDelay", 0) != 0:
        yield "a failover waits although it need not"
    alive = at(spec, "probes.liveness")
    if not at(alive, "isolationCheck.enabled"):
        yield "a primary that is cut off goes on"
    if alive["periodSeconds"] * alive["failureThreshold"] + alive["terminationGracePeriodSeconds"] > 20:
        yield "a frozen primary may thaw before it is killed, and mislead a standby"
    ready = at(spec, "probes.readiness")
    if ready["periodSeconds"] * ready["failureThreshold"] > 5:
        yield "a failed primary is noticed late"
    if any(each["timeoutSeconds"] > each["periodSeconds"] for each in (alive, ready)):
        yield "a probe is asked again before it could answer"
    if spec["smartShutdownTimeout"] > 5 or spec["switchoverDelay"] > 20:
        yield "a planned change of the primary waits for pools that never leave"
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
    yield from _parameters_of_postgresql(spec)
    owner = at(spec, "bootstrap.initdb")
    if (owner["encoding"], owner["dataChecksums"]) != ("UTF8", True):
        yield "not every link can be written, or what a disk spoilt is not seen"
    for service in SERVICES:
        settings = Settings.read(cluster.environment_of(cluster.get("Deployment", service)))
        for address in filter(None, (settings.links_url, settings.links_read_url)):
            if (address.user, address.path) != (owner["owner"], owner["database"]):
                yield f"{service} asks for {address}, and the cluster has {owner}"
            if address.hosts[0][0] == "url-shortener-db-ro" and instances == 1:
                yield "a single instance has no standby to read from"


def _parameters_of_postgresql(spec: Object) -> Iterator[str]:
    told = at(spec, "postgresql.parameters")
    idle, interval, count = (int(told[f"tcp_keepalives_{word}"]) for word in ("idle", "interval", "count"))
    if idle + interval * count > 15 or int(told["tcp_user_timeout"]) > 10_000:
        yield "a client that vanished keeps its connection for long"
    if not re.fullmatch(r"[1-5]s", told["client_connection_check_interval"]):
        yield "a commit that waits does not notice that its client has gone"
    if told["wal_level"] != "replica":
        yield "a standby could not follow, or more is written than it needs"
    kept = float(told["max_slot_wal_keep_size"].removesuffix("GB")) * 2**30
    if kept > quantity(at(spec, "storage.size")) / 2:
        yield "a standby that stays away fills the volume"


def _megabytes(text: str) -> float:
    return float(text.removesuffix("MB")) * 2**20


_LOGS_IN_MEMORY = 3  # one that is written, others on their way to the segments
_ALARM_SHARE = (
    0.8 * 0.4
)  # the operator tells RabbitMQ of four fifths of the limit, and 0.4 is the least it was content with


@rule
def rabbitmq_is_as_its_operator_wants(cluster: Cluster) -> Iterator[str]:
    spec = rabbitmq(cluster)["spec"]
    lines = dict(line.split(" = ") for line in at(spec, "rabbitmq.additionalConfig").splitlines() if line.strip())
    if lines.get("default_queue_type") != "quorum":
        yield "queues are not quorum queues by default"
    if lines.get("quorum_queue.continuous_membership_reconciliation.enabled") != "true":
        yield "a queue that was declared early stays on fewer nodes"
    size = lines.get("quorum_queue.continuous_membership_reconciliation.target_group_size", "0")
    if int(size) < spec["replicas"]:
        yield f"a queue grows to {size} of {spec['replicas']} nodes"
    in_memory = _LOGS_IN_MEMORY * int(lines.get("raft.wal_max_size_bytes", 512 * 2**20))
    if in_memory > _ALARM_SHARE * quantity(at(spec, "resources.limits.memory")):
        yield "the log of the quorum queues alone can raise the memory alarm, which blocks every publisher"
    if spec.get("autoEnableAllFeatureFlags") is not True:
        yield "the next version may refuse to start"
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
    if not re.match(r"sh -c sleep \d+; exec redis-server /redis/redis.conf --", command):
        yield f"it is not started with the operator's configuration: {command}"
    most = config.get("maxmemory", "")
    if f"--maxmemory {most} " not in f"{command} " or _mb(most) > quantity(at(servers, "resources.requests.memory")):
        yield f"it may take {most}, which it is not told at its start, or has not"
    if not re.fullmatch(r"(\d+ \d+ ?)+", config.get("save", "")) or _mb(config.get("repl-backlog-size", "")) > 2**26:
        yield "no snapshots, or a backlog that leaves no room"
    if int(config["min-replicas-max-lag"]) > 10 or not 2000 <= int(watch["failover-timeout"]) <= 5000:
        yield "a master that was cut off, or a failover that failed, is noticed late"
    if spec.get("labelWhitelist") != ["^app.kubernetes.io/part-of$"]:
        yield "a label that changes restarts every server"
    volume = at(servers, "storage.persistentVolumeClaim.spec")
    if not at(servers, "storage.keepAfterDeletion") or volume["accessModes"] != ["ReadWriteOnce"]:
        yield "the counts go with the object, or their volume is shared"
    if "--maxmemory-policy noeviction" not in command or config.get("maxmemory-policy") != "noeviction":
        yield "counts may be evicted"
    pause = re.search(r"sleep (\d+)", command)
    if not pause or int(pause[1]) * 1000 <= int(watch["down-after-milliseconds"]):
        yield "a master that is back before it is missed makes Sentinel wait for half a minute"
    if not 1200 <= int(watch["down-after-milliseconds"]) <= 2000:
        yield "a master that was just promoted is taken for down, or one that is down is noticed late"
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


def _mb(text: str) -> float:
    return float(text.removesuffix("mb")) * 2**20


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
    switches = ("collector.options.collector.otlp.enabled", "ingress.enabled", "query.tracingEnabled")
    if [at(spec, path) for path in switches] != [True, False, False]:
        yield "it hears no OTLP, is open to the world, or wants an agent that is no longer made"
    if at(spec, "collector.strategy.type") != "RollingUpdate" or at(spec, "storage.dependencies.enabled"):
        yield "a new version interrupts it, or a job runs that nothing here has room for"
    es = at(spec, "storage.options.es")
    if es.get("num-shards") != 1 or not re.fullmatch(r"\d+ \d+ \* \* \*", at(spec, "storage.esIndexCleaner.schedule")):
        yield "a week has more shards than one node takes, or is not cleaned every day"
    if es.get("num-replicas") != 0 and elasticsearch(cluster)["spec"]["replicas"] == 1:
        yield "one node of Elasticsearch cannot hold a copy"
