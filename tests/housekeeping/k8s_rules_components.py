"""The optional components: autoscaler, pooler, backups, monitoring. Each rule is silent where its objects are not."""

import re
from collections.abc import Iterator

import yaml  # type: ignore[import-untyped]

from tests.housekeeping.k8s_cluster import Cluster, Object, at, name_of, quantity
from tests.housekeeping.k8s_facts import postgresql
from tests.housekeeping.k8s_rule import SERVICES, matches, pods_of, rule
from urlshortener.links.postgresql import _READING, READ_CONNECTIONS
from urlshortener.settings import Settings

# Besides its name, which every pooler understands.
_SAID_AT_THE_START = {"default_transaction_isolation", *_READING}
_OF_A_POD = "spec.template.spec.containers.0.resources"


@rule
def an_autoscaler_fits_what_it_scales(cluster: Cluster) -> Iterator[str]:
    budgets = {each["metadata"]["name"]: at(each, "spec.minAvailable") for each in _own_budgets(cluster)}
    for each in cluster.of("HorizontalPodAutoscaler"):
        target = at(each, "spec.scaleTargetRef")
        workload = cluster.get(target["kind"], target["name"])
        fewest, most = cluster.pods(target["name"])
        if target["apiVersion"] != workload["apiVersion"]:
            yield f"{name_of(each)} scales what is no {target['apiVersion']}"
        if "replicas" in workload["spec"]:
            yield f"every apply would set {target['name']} back to {workload['spec']['replicas']}"
        if not budgets.get(target["name"], 0) < fewest < most:
            yield f"{name_of(each)}: {fewest} to {most} pods, of which a budget keeps {budgets.get(target['name'])}"
        for metric in at(each, "spec.metrics"):
            if (metric["type"], at(metric, "resource.target.type")) != ("Resource", "Utilization"):
                yield f"{name_of(each)} looks at {metric}"
            share, resource = at(metric, "resource.target.averageUtilization") / 100, at(metric, "resource.name")
            asked, limit = (quantity(at(workload, f"{_OF_A_POD}.{kind}.{resource}")) for kind in ("requests", "limits"))
            if not asked <= share * asked < limit:
                yield f"{name_of(each)} acts at {share} of the {resource} asked for, and the limit is {limit / asked}"


def _own_budgets(cluster: Cluster) -> list[Object]:
    return [each for each in cluster.of("PodDisruptionBudget") if "minAvailable" in each["spec"]]


@rule
def a_pooler_has_readers_only_and_room_for_them(cluster: Cluster) -> Iterator[str]:
    """Migrations, writes and the listener for changed links need sessions of their own, on the primary."""
    for each in cluster.of("Pooler"):
        name, spec = each["metadata"]["name"], each["spec"]
        parameters = at(spec, "pgbouncer.parameters")
        if (at(spec, "cluster.name"), spec["type"]) != (postgresql(cluster)["metadata"]["name"], "ro"):
            yield f"{name} does not lead to the standbys"
        if at(spec, "pgbouncer.poolMode") != "transaction" or int(parameters.get("max_prepared_statements", 0)) < 1:
            yield f"{name} shares no connections, or forgets what was prepared"
        if set(parameters["ignore_startup_parameters"].split(",")) != _SAID_AT_THE_START:
            yield f"{name} refuses readers, who say {sorted(_SAID_AT_THE_START)} when they connect"
        for spread in at(spec, "template.spec.topologySpreadConstraints"):
            mine = matches(spread["labelSelector"], {"cnpg.io/poolerName": name})
            if (mine, spread["topologyKey"], spread["maxSkew"]) != (True, "kubernetes.io/hostname", 1):
                yield f"{name} may have both of its pods on one node"
            if spread["whenUnsatisfiable"] != "ScheduleAnyway":
                yield f"{name} may not start where a node is missing"
        if int(parameters.get("server_login_retry", 15)) > 2:
            yield f"{name} finds a standby that is back late"
        if spec["instances"] < 2:
            yield f"{name} is a single point of failure"
        clients = servers = 0
        for service in SERVICES:
            workload = cluster.get("Deployment", service)
            settings = Settings.read(cluster.environment_of(workload))
            if settings.links_url.hosts[0][0] == name:
                yield f"{service} writes through {name}"
            if settings.links_read_url and settings.links_read_url.hosts == ((name, 5432),):
                surge = at(workload, "spec.strategy.rollingUpdate.maxSurge")
                clients += (cluster.pods(service)[1] + surge) * READ_CONNECTIONS
                servers = spec["instances"] * int(parameters["default_pool_size"])
        if not clients:
            yield f"nobody reads through {name}"
        if clients > int(parameters["max_client_conn"]):  # even when only one of its pods is left
            yield f"{name} takes {parameters['max_client_conn']} of {clients} connections"
        if servers > clients:
            yield f"{name} holds {servers} connections for {clients}, which is more than without it"
        pod = at(spec, "template.spec.containers.0")
        if pod["name"] != "pgbouncer" or not {"cpu", "memory"} <= at(pod, "resources.requests").keys():
            yield f"{name} asks for no resources"


@rule
def backups_have_an_archive(cluster: Cluster) -> Iterator[str]:
    for each in cluster.of("ScheduledBackup"):
        spec = each["spec"]
        database = cluster.get("Cluster", at(spec, "cluster.name"))
        plugins = {plugin["name"]: plugin for plugin in database["spec"].get("plugins", [])}
        plugin = plugins.get(at(spec, "pluginConfiguration.name"), {})
        if spec["method"] != "plugin" or not plugin.get("isWALArchiver"):
            yield f"{name_of(each)} is of no use: the log between two of them is not archived"
        elif not at(plugin, "parameters.barmanObjectName"):
            yield f"{name_of(each)} is written nowhere"
        if not re.fullmatch(r"\d+ \d+ \d+ \* \* \*", spec["schedule"]):
            yield f"{name_of(each)} is not made every day; this operator's schedules begin with the seconds"


@rule
def monitors_find_pods_that_may_be_asked(cluster: Cluster) -> Iterator[str]:
    pods = pods_of(cluster)
    for labels in pods.values():  # a pooler is called by its cluster's name too: no policy here counts on that
        if labels.get("cnpg.io/podRole") == "pooler":
            labels["cnpg.io/cluster"] = pods["PostgreSQL"]["cnpg.io/cluster"]
    workloads = {each["metadata"]["name"]: each for each in cluster.workloads()}
    for each in cluster.of("PodMonitor"):
        chosen = [name for name, labels in pods.items() if matches(at(each, "spec.selector"), labels)]
        if len(chosen) != 1:
            yield f"{name_of(each)} selects {chosen}"
            continue
        for endpoint in at(each, "spec.podMetricsEndpoints"):
            port = endpoint.get("portNumber") or _ports(workloads.get(chosen[0]))[endpoint["port"]]
            if not any(_lets_in_monitoring(policy, pods[chosen[0]], port) for policy in cluster.of("NetworkPolicy")):
                yield f"{chosen[0]} may not be asked for its metrics at {port}"


def _ports(workload: Object | None) -> dict[str, int]:
    if workload is None:  # the operator of PostgreSQL gives its exporter this name
        return {"metrics": 9187}
    return {each["name"]: each["containerPort"] for each in at(workload, "spec.template.spec.containers.0.ports")}


def _lets_in_monitoring(policy: Object, pod: dict[str, str], port: int) -> bool:
    there = {"kubernetes.io/metadata.name": "monitoring"}
    return matches(at(policy, "spec.podSelector"), pod) and any(
        {"port": port} in entry.get("ports", [])
        and any("namespaceSelector" in peer and matches(peer["namespaceSelector"], there) for peer in entry["from"])
        for entry in policy["spec"].get("ingress", [])
    )


@rule
def grafana_finds_the_dashboard(cluster: Cluster) -> Iterator[str]:
    for each in cluster.of("ConfigMap"):
        if "dashboard.json" in each["data"] and each["metadata"]["labels"].get("grafana_dashboard") != "1":
            yield f"{name_of(each)} is not found by Grafana"


@rule
def standbys_are_counted_and_none_may_be_missing(cluster: Cluster) -> Iterator[str]:
    alerts = [
        each
        for rules in cluster.of("PrometheusRule")
        for group in at(rules, "spec.groups")
        for each in group["rules"]
        if each.get("alert") == "PostgresqlStandbyMissing"
    ]
    for alert in alerts:
        spec, name = postgresql(cluster)["spec"], postgresql(cluster)["metadata"]["name"]
        if f'cnpg_collector_up{{cluster="{name}"}}' not in alert["expr"]:
            yield f"nobody notices when no primary of {name} counts its standbys"
        if f"streaming) < {spec['instances'] - 1}" not in alert["expr"].partition(" or ")[0]:
            yield f"one of {spec['instances']} instances could be missing unseen: {alert['expr']}"
        known = set()
        for source in at(spec, "monitoring.customQueriesConfigMap"):
            if "cnpg.io/reload" not in at(cluster.get("ConfigMap", source["name"]), "metadata.labels"):
                yield f"a change of {source['name']} is read by nobody"
            queries = yaml.safe_load(at(cluster.get("ConfigMap", source["name"]), "data")[source["key"]])
            known |= {f"cnpg_{name}_{c}" for name, query in queries.items() for each in query["metrics"] for c in each}
        yield from (f"nobody measures {each}" for each in set(re.findall(r"cnpg_standbys\w+", alert["expr"])) - known)
