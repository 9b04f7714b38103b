"""The Ingress on a real nginx: what each controller makes of it, and what stands for it in compose.yaml."""

import http.client
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.backends.nginx import Nginx
from tests.conftest import installed
from tests.housekeeping.k8s_cluster import Cluster
from tests.housekeeping.k8s_facts import ingress
from tests.housekeeping.k8s_ingress import CONTROLLERS, EDGES, as_nginx_configuration, edge_header, of_annotations
from tests.housekeeping.k8s_tables import CHECKOUT
from tests.journeys.systems import System, all_in_one
from urlshortener.services.caller import Proxies
from urlshortener.services.creates import MOST_BULK_BYTES
from urlshortener.settings import Settings

PRODUCTION = "url-shortener.example.com"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(nginx: Nginx, method: str, path: str, body: str = "", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(nginx.host, nginx.port, timeout=15)
    try:
        named = {"Host": PRODUCTION, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, path, body or None, named)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def production() -> Cluster:
    return Cluster.rendered("prod")


# --- In front of both services


@pytest.fixture(scope="module")
def services() -> Iterator[System]:
    system = all_in_one({"TRUSTED_PROXIES": "127.0.0.0/8"})
    try:
        system.start()
        yield system
    finally:
        system.close()


@pytest.fixture(scope="module", params=EDGES)
def edge(request: pytest.FixtureRequest, production: Cluster, services: System) -> Iterator[Nginx]:
    pods = {
        "shortener-service": [services.shortener.removeprefix("http://")],
        "analytics-service": [services.analytics.removeprefix("http://")],
    }
    with installed(), Nginx(as_nginx_configuration(request.param, production, pods)) as nginx:
        nginx.start()
        yield nginx


def test_a_link_is_made_followed_and_counted_through_the_edge(edge: Nginx) -> None:
    made = ask(edge, "POST", "/api/v1/urls", '{"url":"https://example.com/"}', Content_Type="application/json")
    assert made.status == 201
    link = json.loads(made.body)
    assert link["short_url"].partition("://")[2] == f"{PRODUCTION}/{link['code']}"
    followed = ask(edge, "GET", f"/{link['code']}")
    assert (followed.status, followed.headers["location"]) == (307, "https://example.com/")
    counted = ask(edge, "GET", f"/api/v1/analytics/{link['code']}")
    assert counted.status == 200
    assert json.loads(counted.body)["code"] == link["code"]


def test_the_first_redirect_is_as_the_page_of_deployment_says(
    edge: Nginx, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "compose" not in request.node.name:
        pytest.skip("one edge without TLS and without a host is enough")
    page = (CHECKOUT / "docs" / "deployment.md").read_text()
    commands = page.partition("## The first redirect")[2].partition("```bash\n")[2].partition("```")[0]
    (tmp_path / "kubectl").write_text("#!/bin/sh\nprintf c2VjcmV0\n")
    (tmp_path / "kubectl").chmod(0o755)
    done = subprocess.run(
        ["bash", "-e"],
        input=commands.replace(f"https://{PRODUCTION}", f"http://{edge.host}:{edge.port}"),
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "no_proxy": "*"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    said = re.search(r"The second says `([^`]+)`", page)
    assert said
    assert said[1] in done.stdout
    assert '"access_count":1,' in done.stdout


def test_both_api_documents_can_be_read(edge: Nginx) -> None:
    links = json.loads(ask(edge, "GET", "/openapi.json").body)
    counts = json.loads(ask(edge, "GET", "/api/v1/analytics/openapi.json").body)
    assert "/api/v1/urls" in links["paths"]
    assert "/api/v1/analytics/{code}" in counts["paths"]
    assert all(ask(edge, "GET", path).status == 200 for path in ("/docs", "/api/v1/analytics/docs"))


@pytest.mark.parametrize("name", ["health", "ready", "metrics"])
def test_no_way_leads_to_the_probes_or_to_the_metrics(edge: Nginx, name: str) -> None:
    for path in (
        f"/{name}",
        f"/{name}?x=1",
        f"//{name}",
        f"/./{name}",
        f"/x/../{name}",
        f"/%{ord(name[0]):x}{name[1:]}",
        f"/{name}/",
        f"/api/v1/analytics/{name}",
        f"/api/v1/analytics/../../../{name}",
        f"/api/v1/analytics//{name}",
    ):
        answer = ask(edge, "GET", path)
        assert answer.status in (400, 404, 405, 502, 503), path
        assert b"service_name" not in answer.body, path
        assert b"# HELP" not in answer.body, path


def test_another_host_is_not_served(edge: Nginx, request: pytest.FixtureRequest) -> None:
    if "compose" in request.node.name:
        pytest.skip("compose.yaml has no host: whatever leads to this machine is it")
    assert ask(edge, "GET", "/", Host="other.example.com").status == 404


# --- In front of stand-ins, which say who they are and what came, or say nothing


@dataclass
class StandIn:
    """Answers as it is told; None closes the connection instead. What came is written down: name, method, headers."""

    name: str
    seen: list[tuple[str, str, dict[str, str]]]
    status: int | None = 200
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                stand_in.seen.append((stand_in.name, self.command, {k.lower(): v for k, v in self.headers.items()}))
                if stand_in.status is None:
                    self.close_connection = True
                    return
                body = f"{stand_in.name} {self.path}".encode()
                self.send_response(stand_in.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 (http.server looks for these names)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


_WIRE = "X-The-Wire"


@dataclass
class Replicas:
    """Two pods of the shortener and one of analytics behind the edge."""

    nginx: Nginx
    header: str
    pods: list[StandIn]
    seen: list[tuple[str, str, dict[str, str]]]

    def say(self, *statuses: int | None) -> None:
        self.seen.clear()
        for pod, status in zip(self.pods, statuses, strict=True):
            pod.status = status

    def until_the_first_is_asked(self, method: str) -> Answer:
        """They take turns, so one of two requests begins at the first."""
        for _ in range(2):
            self.seen.clear()
            answer = ask(self.nginx, method, "/cat", "{}" if method in ("POST", "PATCH") else "")
            if self.seen[0][0] == self.pods[0].name:
                return answer
        raise AssertionError(f"only {self.seen} were asked")


@pytest.fixture(params=EDGES)
def replicas(request: pytest.FixtureRequest, production: Cluster) -> Iterator[Replicas]:
    seen: list[tuple[str, str, dict[str, str]]] = []
    pods = [StandIn(name, seen) for name in ("shortener-1", "shortener-2", "analytics-1")]
    behind = {"shortener-service": [each.address for each in pods[:2]], "analytics-service": [pods[2].address]}
    # A visitor may come from any address here, by a header that no edge passes on.
    wire = f"set_real_ip_from 127.0.0.1; real_ip_header {_WIRE};"
    with installed(), Nginx(wire + as_nginx_configuration(request.param, production, behind)) as nginx:
        nginx.start()
        yield Replicas(nginx, edge_header(request.param).lower(), pods, seen)
    for pod in pods:
        pod.close()


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("/", "shortener"),
        ("/cat", "shortener"),
        ("/cat?x=/api/v1/analytics", "shortener"),
        ("/api/v1/urls", "shortener"),
        ("/api/v1/urls/cat", "shortener"),
        ("/healthy", "shortener"),
        ("/openapi.json", "shortener"),
        ("/api/v1/analytics", "analytics"),
        ("/api/v1/analytics/", "analytics"),
        ("/api/v1/analytics/cat", "analytics"),
        ("/api/v1/analytics/cat/series?tz=UTC", "analytics"),
        ("/api/v1/analytics/openapi.json", "analytics"),
    ],
)
def test_each_path_leads_to_its_service(replicas: Replicas, path: str, who: str) -> None:
    assert ask(replicas.nginx, "GET", path).body.decode().startswith(f"{who}-")


def test_a_visitor_whose_pod_says_nothing_is_answered_by_the_other_with_one_id_for_both(replicas: Replicas) -> None:
    replicas.say(None, 200, 200)
    answer = replicas.until_the_first_is_asked("GET")
    assert answer.status == 200
    assert [name for name, _, _ in replicas.seen] == ["shortener-1", "shortener-2"]
    ids = {headers[replicas.header] for _, _, headers in replicas.seen}
    assert len(ids) == 1
    assert len(ids.pop()) == 32


def test_no_more_than_two_pods_are_asked(replicas: Replicas) -> None:
    replicas.say(None, None, 200)
    assert ask(replicas.nginx, "GET", "/cat").status == 502
    assert len(replicas.seen) <= 2


@pytest.mark.parametrize("status", [404, 410, 429, 500, 502, 503, 504])
def test_a_status_is_an_answer_and_asked_of_nobody_else(replicas: Replicas, status: int) -> None:
    replicas.say(status, status, 200)
    assert ask(replicas.nginx, "GET", "/cat").status == status
    assert len(replicas.seen) == 1


@pytest.mark.parametrize(("method", "status", "times"), [("POST", 502, 1), ("PATCH", 502, 1), ("DELETE", 200, 2)])
def test_what_must_not_be_done_twice_is_not_done_again(
    replicas: Replicas, method: str, status: int, times: int
) -> None:
    replicas.say(None, 200, 200)
    assert replicas.until_the_first_is_asked(method).status == status
    assert len(replicas.seen) == times


def test_what_a_visitor_says_of_himself_is_not_believed(replicas: Replicas) -> None:
    replicas.say(200, 200, 200)
    forged = {replicas.header: "mine", "x-forwarded-for": "203.0.113.9", "x-forwarded-host": "evil.example"}
    ask(replicas.nginx, "GET", "/cat", **forged)
    ask(replicas.nginx, "GET", "/cat", **forged)
    headers = [each for _, _, each in replicas.seen]
    assert headers[0][replicas.header] != headers[1][replicas.header]
    assert all(each[replicas.header] != "mine" for each in headers)
    assert all(each["x-forwarded-for"].split(", ")[-1] == "127.0.0.1" for each in headers)
    assert all(each["x-forwarded-host"] == PRODUCTION for each in headers)


_CONTROLLER = "10.244.1.7"  # in the networks of pods
_PODS = "10.244.0.0/16"


@pytest.mark.parametrize(
    ("trusted", "visitor"), [("as rendered", "198.51.100.7"), (_PODS, "198.51.100.7"), (_PODS, "10.9.8.7")]
)
def test_a_visitor_is_known_by_his_own_address_whatever_he_claims(
    replicas: Replicas, production: Cluster, trusted: str, visitor: str
) -> None:
    proxies = Proxies(_settings(production).trusted_proxies if trusted == "as rendered" else [ip_network(trusted)])
    replicas.say(200, 200, 200)
    claimed = {"X-Forwarded-For": f"203.0.113.9, {_CONTROLLER}", "X-Real-IP": "203.0.113.9"}
    ask(replicas.nginx, "GET", "/cat", **{_WIRE: visitor}, **claimed)
    assert proxies.client(_as_it_came(replicas, _CONTROLLER)) == visitor


def test_an_id_is_believed_from_the_edge_and_is_the_edges_own(replicas: Replicas, production: Cluster) -> None:
    settings = _settings(production)
    proxies, name = Proxies(settings.trusted_proxies), settings.request_id_header.lower().encode()
    replicas.say(200, 200, 200)
    ask(replicas.nginx, "GET", "/cat", **{settings.request_id_header: "0" * 32})
    by_the_edge = proxies.request_id(_as_it_came(replicas, _CONTROLLER), name)
    assert by_the_edge not in (None, "0" * 32)
    assert proxies.request_id(_as_it_came(replicas, "198.51.100.7"), name) is None


def _settings(production: Cluster) -> Settings:
    return Settings.read(production.environment_of(production.get("Deployment", "shortener-service")))


def _as_it_came(replicas: Replicas, peer: str) -> dict[str, Any]:
    """What a pod was sent, as if from that address."""
    _, _, headers = replicas.seen[-1]
    return {"client": (peer, 50000), "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}


def test_a_body_that_the_service_would_refuse_reaches_it_so_that_it_can_say_why(replicas: Replicas) -> None:
    replicas.say(200, 200, 200)
    assert ask(replicas.nginx, "POST", "/api/v1/urls/bulk", "x" * (MOST_BULK_BYTES + 1)).status == 200
    assert ask(replicas.nginx, "POST", "/api/v1/urls/bulk", "x" * 6_000_000).status == 413


def test_the_edge_of_compose_keeps_the_times_and_retries_of_the_ingress(production: Cluster) -> None:
    text = (CHECKOUT / "docker" / "nginx.conf").read_text()
    assert [each for each in of_annotations("F5", production) if each not in text] == []


# --- The replay can fail


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_wrong_rule_is_seen(controller: str, production: Cluster) -> None:
    def is_swapped(cluster: Cluster) -> None:
        for each in ingress(cluster)["spec"]["rules"][0]["http"]["paths"]:
            if each["path"] == "/api/v1/analytics":
                each["backend"]["service"]["name"] = "shortener-service"

    def is_open(cluster: Cluster) -> None:
        rule = ingress(cluster)["spec"]["rules"][0]["http"]
        rule["paths"] = [each for each in rule["paths"] if each["path"] != "/health"]

    def _who(path: str, change: Callable[[Cluster], None]) -> str:
        cluster = production.copy()
        change(cluster)
        seen: list[tuple[str, str, dict[str, str]]] = []
        pods = {each: StandIn(each, seen) for each in ("shortener-service", "analytics-service")}
        behind = {name: [pod.address] for name, pod in pods.items()}
        with installed(), Nginx(as_nginx_configuration(controller, cluster, behind)) as nginx:
            nginx.start()
            answer = ask(nginx, "GET", path)
        for pod in pods.values():
            pod.close()
        return answer.body.decode()

    assert _who("/api/v1/analytics/cat", is_swapped).startswith("shortener-service")
    assert _who("/health", is_open).startswith("shortener-service")
