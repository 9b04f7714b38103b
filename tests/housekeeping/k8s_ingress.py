"""The rendered Ingress as the nginx configuration that its two controllers would make of it, and that of compose.yaml.

Written after the templates of ingress-nginx 1.15.1 and of F5's NGINX Ingress Controller 5.5.4: the same locations, the
same order of precedence, the same directives out of the same annotations. TLS and the controllers' own ports are left
out; the balancer is nginx' own, with the addresses that a Service would have.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

from tests.housekeeping.k8s_cluster import Cluster, Object, at
from tests.housekeeping.k8s_facts import ingress
from tests.housekeeping.k8s_tables import CHECKOUT

# The pods behind each Service: addresses with ports. A Service without pods has none.
Pods = Mapping[str, Sequence[str]]

CONTROLLERS = ("ingress-nginx", "F5")
EDGES = (*CONTROLLERS, "compose")


def as_nginx_configuration(controller: str, cluster: Cluster, pods: Pods) -> str:
    """What stands inside `http { … }`."""
    if controller == "compose":
        return _compose(pods)
    rules = at(ingress(cluster), "spec.rules")
    services = {each["backend"]["service"]["name"] for rule in rules for each in rule["http"]["paths"]}
    return "\n".join(
        [_upstream(controller, service, pods.get(service, ())) for service in sorted(services)]
        + [_server(controller, cluster, rule) for rule in rules]
        + ["server { listen 127.0.0.1:{port} default_server; return 404; }"]
    )


def _compose(pods: Pods) -> str:
    """docker/nginx.conf, at other addresses."""
    text = _nginx_of_compose()
    for name, port in (("shortener", 8080), ("analytics", 8081)):
        servers = [f"server {address} max_fails=0;" for address in pods[f"{name}-service"]]
        text = text.replace(f"server {name}:{port} max_fails=0;", " ".join(servers))
    return text.replace("listen 8080;", "listen 127.0.0.1:{port};").replace("access_log off;", "")


def _nginx_of_compose() -> str:
    text = (CHECKOUT / "docker" / "nginx.conf").read_text()
    return text.partition("http {")[2].rstrip().removesuffix("}")


def _upstream(controller: str, service: str, addresses: Sequence[str]) -> str:
    if not addresses:
        return ""
    # ingress-nginx chooses in Lua, which remembers no failures; F5's leaves nginx' own defaults.
    remembers = "max_fails=0" if controller == "ingress-nginx" else "max_fails=1 fail_timeout=10s"
    servers = " ".join(f"server {address} {remembers};" for address in addresses)
    return f"upstream {service} {{ {servers} keepalive 32; }}"


def _server(controller: str, cluster: Cluster, rule: Object) -> str:
    locations = [
        line
        for each in rule["http"]["paths"]
        for where in _locations(controller, each["path"], each["pathType"])
        for line in (f"location {where} {{", *_inside(controller, cluster, each), "}")
    ]
    return "\n".join([f"server {{ listen 127.0.0.1:{{port}}; server_name {rule['host']};", *locations, "}"])


def _locations(controller: str, path: str, kind: str) -> list[str]:
    if kind == "Exact":
        return [f"= {path}"]
    if controller == "F5" or path.endswith("/"):
        return [path]
    return [f"= {path}", f"{path}/"]  # whole segments


def _inside(controller: str, cluster: Cluster, path: Object) -> list[str]:
    service = path["backend"]["service"]["name"]
    if "selector" not in cluster.get("Service", service)["spec"]:  # nobody is behind it
        return ["return 503;" if controller == "ingress-nginx" else "return 502;"]
    return [*_of_the_controller(controller), *of_annotations(controller, cluster), f"proxy_pass http://{service};"]


# Annotation → directive, for each controller.
_DIRECTIVES = {
    "ingress-nginx": {
        "nginx.ingress.kubernetes.io/proxy-next-upstream": "proxy_next_upstream {}",
        "nginx.ingress.kubernetes.io/proxy-next-upstream-tries": "proxy_next_upstream_tries {}",
        "nginx.ingress.kubernetes.io/proxy-next-upstream-timeout": "proxy_next_upstream_timeout {}",
        "nginx.ingress.kubernetes.io/proxy-connect-timeout": "proxy_connect_timeout {}s",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "proxy_read_timeout {}s",
        "nginx.ingress.kubernetes.io/proxy-send-timeout": "proxy_send_timeout {}s",
        "nginx.ingress.kubernetes.io/proxy-body-size": "client_max_body_size {}",
    },
    "F5": {
        "nginx.org/proxy-next-upstream": "proxy_next_upstream {}",
        "nginx.org/proxy-next-upstream-tries": "proxy_next_upstream_tries {}",
        "nginx.org/proxy-next-upstream-timeout": "proxy_next_upstream_timeout {}",
        "nginx.org/proxy-connect-timeout": "proxy_connect_timeout {}",
        "nginx.org/proxy-read-timeout": "proxy_read_timeout {}",
        "nginx.org/proxy-send-timeout": "proxy_send_timeout {}",
        "nginx.org/client-max-body-size": "client_max_body_size {}",
    },
}


def of_annotations(controller: str, cluster: Cluster) -> list[str]:
    annotations = at(ingress(cluster), "metadata.annotations")
    return [form.format(annotations[name]) + ";" for name, form in _DIRECTIVES[controller].items()]


def _of_the_controller(controller: str) -> list[str]:
    """What it sets for every Ingress, and what the prerequisites of docs/deployment.md add."""
    forwarded = "$remote_addr" if controller == "ingress-nginx" else "$proxy_add_x_forwarded_for"
    return [
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "proxy_set_header Host $host;",
        "proxy_set_header X-Real-IP $remote_addr;",
        f"proxy_set_header X-Forwarded-For {forwarded};",
        "proxy_set_header X-Forwarded-Host $host;",
        "proxy_set_header X-Forwarded-Proto https;",
        *(_headers_of_the_script() if controller == "ingress-nginx" else _snippets_of_the_page()),
    ]


def _headers_of_the_script() -> list[str]:
    script = (CHECKOUT / "k8s" / "helm" / "install-operators.sh").read_text()
    found = re.findall(r"^ *'?controller\.proxySetHeaders\.([\w-]+)=(\$\w+)", script, re.MULTILINE)
    return [f'proxy_set_header {name} "{value}";' for name, value in found]


def _snippets_of_the_page() -> list[str]:
    page = (CHECKOUT / "docs" / "deployment.md").read_text()
    words = [word for line in re.findall(r"--set .*", page) for word in shlex.split(line.rstrip("\\"))]
    return [word.partition("=")[2] for word in words if word.startswith("controller.config.entries.location-snippets=")]


def edge_header(controller: str) -> str:
    """The header in which the edge tells its own id of a request, as the controller is told to set it."""
    match controller:
        case "ingress-nginx":
            own = _headers_of_the_script()
        case "F5":
            own = _snippets_of_the_page()
        case _:
            own = re.findall(r"proxy_set_header .*", _nginx_of_compose())
    names = [directive.split()[1] for directive in own if "$request_id" in directive]
    assert len(names) == 1, f"{controller} is told {own}"
    return str(names[0])
