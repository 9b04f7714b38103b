"""What must be true of every environment, besides the numbers of the page. A rule yields a sentence for each fault."""

import re
from collections.abc import Iterator

from tests.housekeeping import (
    k8s_rules_components,
    k8s_rules_inside,
    k8s_rules_network,
    k8s_rules_operators,
    k8s_rules_pods,
)
from tests.housekeeping.k8s_cluster import Cluster, Object, at, mappings, name_of
from tests.housekeeping.k8s_facts import ingress, jaeger, postgresql, rabbitmq, redis
from tests.housekeeping.k8s_ingress import EDGES, edge_header
from tests.housekeeping.k8s_rule import RULES, SERVICES, broken, matches, rule
from tests.housekeeping.k8s_secrets import keys_of_templates
from urlshortener.errors import WrongSetting
from urlshortener.settings import TABLE, Settings

# Each brings rules of its own.
PARTS = (k8s_rules_components, k8s_rules_inside, k8s_rules_network, k8s_rules_operators, k8s_rules_pods)


EVERY_RULE = RULES


def faults(cluster: Cluster) -> list[str]:
    return [fault for each in RULES for fault in broken(each, cluster)]


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
            if word in mapping and not cluster.has("ConfigMap", name := mapping[word]["name"]):
                yield f"there is no ConfigMap {name}"
            elif word in mapping and not re.search(r"-[a-z0-9]{10}$", name):
                yield f"ConfigMap {name} has no hash in its name, so a change of it rolls no pods"


@rule
def no_two_objects_have_one_name(cluster: Cluster) -> Iterator[str]:
    names = [(name_of(each), each["metadata"].get("namespace")) for each in cluster.objects]
    yield from (f"{name} stands twice" for name, _ in {each for each in names if names.count(each) > 1})


# --- Labels, selectors and ports


@rule
def labels_say_what_a_thing_is(cluster: Cluster) -> Iterator[str]:
    for each in cluster.objects:
        labels = each["metadata"].get("labels", {})
        if each["apiVersion"] == "bitnami.com/v1alpha1":
            continue
        if labels.get("app.kubernetes.io/part-of") != "url-shortener":
            yield f"{name_of(each)} does not say that it is part of this"
        if labels.get("app.kubernetes.io/name", each["metadata"]["name"]) != each["metadata"]["name"]:
            yield f"{name_of(each)} is called {labels['app.kubernetes.io/name']}"
        word = "pod-security.kubernetes.io/"
        if labels.get(f"{word}warn") != labels.get(f"{word}enforce"):
            yield f"{name_of(each)} warns of other things than it enforces"
    for each in cluster.workloads():
        if _labels(each).get("app.kubernetes.io/part-of") != "url-shortener":
            yield f"the pods of {name_of(each)} do not say that they are part of this"


@rule
def a_workload_selects_its_own_pods(cluster: Cluster) -> Iterator[str]:
    for each in cluster.workloads():
        labels = at(each, "spec.template.metadata.labels")
        selectors = [at(each, "spec.selector")]
        selectors += [s["labelSelector"] for s in each["spec"]["template"]["spec"].get("topologySpreadConstraints", [])]
        if not all(matches(selector, labels) for selector in selectors):
            yield f"{name_of(each)} selects other pods than its own"


@rule
def a_service_finds_pods_and_their_ports(cluster: Cluster) -> Iterator[str]:
    for each in cluster.of("Service"):
        selector = each["spec"].get("selector")
        if each["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(each)} is a {each['spec']['type']}"
        if selector is None:  # on purpose without pods: nothing answers
            continue
        workloads = [w for w in cluster.workloads() if matches({"matchLabels": selector}, _labels(w))]
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
    if today.get("ssl-redirect") != "true":
        yield "links can be followed without TLS"
    if int(today.get("proxy-read-timeout", 0)) < 9:
        yield "a create may take 8 s, the proxy waits less"


@rule
def the_services_read_the_id_that_the_edge_tells(cluster: Cluster) -> Iterator[str]:
    for service in SERVICES:
        reads = Settings.read(cluster.environment_of(cluster.get("Deployment", service))).request_id_header
        yield from (f"{service} reads {reads}, {edge} sets another" for edge in EDGES if edge_header(edge) != reads)


@rule
def variables_are_settings_with_right_values(cluster: Cluster) -> Iterator[str]:
    names = {setting.name for setting in TABLE}
    for service in SERVICES:
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
