"""What every door has: one shape of errors, probes, and the second port."""

import inspect

import httpx
import pytest

from tests.services.conftest import asking
from urlshortener import errors
from urlshortener.services.http import Readiness, ops_app, problem_body, problem_of
from urlshortener.telemetry import REQUEST_SECONDS

Door = tuple[str, httpx.AsyncClient]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")

SHORTENER_ALLOWS = {
    "/": "GET, HEAD",
    "/cat": "GET, HEAD",
    "/api/v1/urls": "GET, POST",
    "/api/v1/urls/cat": "DELETE, GET, PATCH, PUT",
    "/health": "GET, HEAD",
    "/ready": "GET, HEAD",
    "/docs": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/robots.txt": "GET, HEAD",
    "/favicon.ico": "GET, HEAD",
}
ANALYTICS_ALLOWS = {
    "/": "GET, HEAD",
    "/api/v1/analytics": "GET",
    "/api/v1/analytics/cat": "GET",
    "/api/v1/analytics/cat/series": "GET",
    "/api/v1/analytics/docs": "GET, HEAD",
    "/api/v1/analytics/openapi.json": "GET, HEAD",
    "/health": "GET, HEAD",
    "/ready": "GET, HEAD",
    "/docs": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
}


def all_errors() -> list[type[errors.UrlShortenerError]]:
    return [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.UrlShortenerError)
    ]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_of_the_tree_is_a_problem(kind: type[errors.UrlShortenerError]) -> None:
    problem = problem_of(kind() if kind in (errors.KeyReused, errors.NotToCome) else kind("words"))
    expected = {"CodeTaken": 409, "NotFound": 404, "Gone": 410, "WrongSetting": 500, "UrlShortenerError": 500}
    default = 503 if issubclass(kind, errors.Unavailable) else 422
    assert problem.status == expected.get(kind.__name__, default)
    assert ("Retry-After" in problem.headers) == (problem.status == 503)


def test_what_is_not_meant_for_strangers_is_not_shown() -> None:
    assert b"hunter2" not in problem_of(errors.WrongSetting("hunter2")).as_json()


def test_a_problem_by_hand_is_the_same_problem() -> None:
    reason, body = problem_body(431, "HEADERS_TOO_LARGE", "Too large.")
    assert reason == "Request Header Fields Too Large"
    assert body == (
        b'{"type":"about:blank","title":"Request Header Fields Too Large","status":431,'
        b'"detail":"Too large.","code":"HEADERS_TOO_LARGE"}'
    )


async def every_method(client: httpx.AsyncClient, allows: dict[str, str]) -> None:
    for path, allowed in allows.items():
        for method in METHODS:
            answer = await client.request(method, path)
            assert answer.status_code < 500, (method, path)
            if method in allowed.split(", "):
                assert answer.status_code != 405, (method, path)
            else:
                assert answer.status_code == 405, (method, path)
                assert answer.headers["allow"] == allowed, (method, path)
                assert answer.headers["content-type"] == "application/problem+json"
                assert method == "HEAD" or answer.json()["code"] == "METHOD_NOT_ALLOWED"


async def test_every_method_on_every_route_of_the_shortener(shortener: httpx.AsyncClient, readiness: Readiness) -> None:
    readiness.ready()
    await every_method(shortener, SHORTENER_ALLOWS)


async def test_every_method_on_every_route_of_the_analytics(analytics: httpx.AsyncClient, readiness: Readiness) -> None:
    readiness.ready()
    await every_method(analytics, ANALYTICS_ALLOWS)


async def test_health_asks_nobody(door: Door) -> None:
    name, client = door
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "service_name": f"{name}-service"})


async def test_ready_is_a_503_only_before_the_start_and_while_draining(door: Door, readiness: Readiness) -> None:
    name, client = door
    assert (await client.get("/ready")).status_code == 503
    readiness.ready()
    readiness.words["links"] = lambda: "unavailable"  # informs, and takes nothing out
    answer = await client.get("/ready")
    words = {"status": "ready", "service_name": f"{name}-service", "dependencies": {"links": "unavailable"}}
    assert (answer.status_code, answer.json()) == (200, words)
    readiness.draining()
    answer = await client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")


async def test_the_second_port_has_probes_and_metrics(readiness: Readiness) -> None:
    async with asking(ops_app("shortener-service", readiness)) as client:
        assert (await client.get("/health")).json()["service_name"] == "shortener-service"
        assert (await client.get("/ready")).status_code == 503
        assert 'service_ready{service="shortener-service"} 0.0' in (await client.get("/metrics")).text
        readiness.ready()
        assert (await client.get("/ready")).status_code == 200
        metrics = await client.get("/metrics")
        assert 'service_ready{service="shortener-service"} 1.0' in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert (await client.post("/metrics")).json()["code"] == "METHOD_NOT_ALLOWED"
        assert (await client.get("/nothing")).json()["code"] == "NOT_FOUND"


async def test_exemplars_are_in_the_format_that_has_them(readiness: Readiness) -> None:
    trace = {"trace_id": "0a" * 16, "span_id": "0b" * 8}
    REQUEST_SECONDS.labels("shortener-service", "/exemplary").observe(0.02, trace)
    async with asking(ops_app("shortener-service", readiness)) as client:
        plain = await client.get("/metrics")
        open_metrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert trace["trace_id"] in open_metrics.text
    assert trace["trace_id"] not in plain.text


async def test_neither_main_door_shows_metrics(shortener: httpx.AsyncClient, analytics: httpx.AsyncClient) -> None:
    assert [(await client.get("/metrics")).status_code for client in (shortener, analytics)] == [404, 404]
