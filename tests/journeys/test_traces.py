"""One trace leads from the client's `traceparent` to the counter; and a collector that fails costs only the spans."""

import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.backends.otlp import OtlpReceiver, ReceivedSpan, tree
from tests.backends.ports import free_port
from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.backends.waiting import wait_until
from tests.journeys.systems import VISITOR_SECRET, Process, System, all_in_one, migrate, two_services
from tests.journeys.test_the_road import counted, made

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def _settings(endpoint: str, ratio: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER_ARG": ratio,
        "TRUSTED_PROXIES": "127.0.0.1/32",
    }


def _click(system: System, code: str, sampled: str = "01") -> None:
    traceparent = {"traceparent": f"00-{TRACE}-{CLIENT}-{sampled}"}
    followed = httpx.get(f"{system.shortener}/{code}", headers={**traceparent, "X-Forwarded-For": "203.0.113.77"})
    assert followed.status_code == 307


def test_a_click_is_one_trace_through_both_services_to_the_counter(
    postgresql: Postgresql,
    database: str,
    rabbitmq: Rabbitmq,
    vhost: str,
    redis_server: Redis,
    redis_database: int,
    receiver: OtlpReceiver,
) -> None:
    system = two_services(
        postgresql, database, rabbitmq, vhost, redis_server, redis_database, _settings(receiver.endpoint, "0")
    )
    try:
        system.start()
        code = made(system, "https://example.com/?token=hush")
        _click(system, code)
        wait_until(lambda: counted(system, code) == 1, "the click is counted", within_seconds=10)
        wait_until(lambda: len(receiver.of(TRACE)) >= 9, "the spans arrive", within_seconds=20)
    finally:
        system.close()

    spans = receiver.of(TRACE)
    print(tree(spans))
    by_name = {span.name: span for span in spans}
    redirect = by_name["GET /{code}"]
    publish = by_name["publish events:access.event"]
    process = by_name["process access_logs"]
    apply = by_name["apply batch"]
    assert _edges(spans) == {
        (CLIENT, "GET /{code}"),
        (redirect.id, "spool access event"),
        (redirect.id, "wait in spool"),
        (redirect.id, "publish events:access.event"),
        (publish.id, "wait in queue"),
        (publish.id, "process access_logs"),
        (process.id, "apply batch"),
        (apply.id, "FCALL"),
        (process.id, "count access event"),
    }
    assert {redirect.service, by_name["wait in spool"].service, publish.service} == {"shortener-service"}
    assert process.service == apply.service == "analytics-service"
    assert redirect.attributes["urlshortener.link.found_in"] == "memory"
    assert redirect.attributes["http.response.status_code"] == 307
    assert publish.attributes["messaging.operation.type"] == "send"
    assert 0 < by_name["count access event"].attributes["urlshortener.event.age_seconds"] < 30
    for word in (code, "hush", "203.0.113"):
        assert word not in str(receiver.spans)


def _edges(spans: list[ReceivedSpan]) -> set[tuple[str, str]]:
    return {(span.parent, span.name) for span in spans}


def test_all_in_one_it_is_the_same_trace_without_a_broker_and_a_create_has_its_statements(
    receiver: OtlpReceiver,
) -> None:
    system = all_in_one(_settings(receiver.endpoint, "1"))
    try:
        system.start()
        _click(system, made(system))
        road = {"spool access event", "wait in spool", "process spool", "apply batch", "count access event"}
        wait_until(lambda: road <= _names(receiver.of(TRACE)), "the click's spans arrive", within_seconds=20)
        wait_until(lambda: bool(receiver.named("POST /api/v1/urls")), "the create's span arrives", within_seconds=20)
        system.shortener_process.stop()  # it sends its last numbers
        assert {"http_requests", "events_counted", "spool_bytes", "event_age_when_counted_seconds"} <= set(
            receiver.metrics
        )
    finally:
        system.close()
    (create,) = receiver.named("POST /api/v1/urls")
    spans = receiver.of(create.trace)
    print(tree(spans))
    assert {"batch of links", "INSERT links"} <= _names(spans)
    (batch,) = (span for span in spans if span.name == "batch of links")
    (insert,) = (span for span in spans if span.name == "INSERT links")
    assert (batch.parent, insert.parent) == (create.id, batch.id)
    assert insert.attributes["db.system.name"] == "sqlite"


def test_where_a_cold_link_was_found_is_told_and_which_statements_a_create_took(
    postgresql_pair: PostgresqlPair, receiver: OtlpReceiver
) -> None:
    primary, replica = postgresql_pair.members
    database = primary.fresh_database()
    settings = {
        **_settings(receiver.endpoint, "1"),
        "LINKS_URL": f"postgresql://{primary.user}@{primary.host}:{primary.port}/{database}",
        "LINKS_READ_URL": f"postgresql://{replica.user}@{replica.host}:{replica.port}/{database}",
        "LINKS_PASSWORD": primary.password,
        "CACHE_WARM_LINKS": "0",
        "EVENTS_URL": f"amqp://127.0.0.1:{free_port()}/",
        "STATS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "VISITOR_SECRET": VISITOR_SECRET,
    }
    migrate(settings)
    with Process("shortener", settings) as shortener:
        shortener.start()
        code = made(System(shortener, shortener, [shortener]), "https://example.com/?token=hush")
        postgresql_pair.wait_until_replicating()
        shortener.stop()  # it forgets the link
        shortener.start()
        assert httpx.get(f"{shortener.urls[0]}/{code}").status_code == 307
        assert httpx.get(f"{shortener.urls[0]}/nobody12").status_code == 404
        wait_until(lambda: len(receiver.named("GET /{code}")) == 2, "the redirects' spans arrive", within_seconds=20)
    found_in = {
        span.attributes["http.response.status_code"]: span.attributes["urlshortener.link.found_in"]
        for span in receiver.named("GET /{code}")
    }
    assert found_in == {307: "replica", 404: "primary"}
    (create,) = receiver.named("POST /api/v1/urls")
    print(tree(receiver.of(create.trace)))
    assert {"batch of links", "INSERT links"} <= _names(receiver.of(create.trace))
    for redirect in receiver.named("GET /{code}"):
        assert "SELECT links" in _names(receiver.of(redirect.trace))
    assert code not in str(receiver.spans) and "hush" not in str(receiver.spans)


def _names(spans: list[ReceivedSpan]) -> set[str]:
    return {span.name for span in spans}


@pytest.fixture(params=["dead", "slow", "hanging"])
def failing_collector(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of one that nobody has, one that answers after half a minute, or one that takes and never answers."""
    if request.param == "dead":
        yield f"http://127.0.0.1:{free_port()}"
    elif request.param == "slow":
        with OtlpReceiver() as receiver:
            receiver.answers_after_seconds = 30
            yield receiver.endpoint
            receiver.answers_after_seconds = 0
    else:
        with socket.create_server(("127.0.0.1", 0)) as hanging:
            yield f"http://127.0.0.1:{hanging.getsockname()[1]}"


def test_a_collector_that_fails_delays_no_redirect_and_no_stop(failing_collector: str) -> None:
    system = all_in_one(_settings(failing_collector, "1"))
    try:
        system.start()
        code = made(system)
        began = time.monotonic()
        with httpx.Client() as client:
            for _ in range(300):
                assert client.get(f"{system.shortener}/{code}").status_code == 307
        assert time.monotonic() - began < 10
        wait_until(lambda: counted(system, code) == 300, "all are counted", within_seconds=10)
        began = time.monotonic()
        system.shortener_process.stop()
        assert time.monotonic() - began < 10
    finally:
        system.close()
    assert "Traceback" not in system.shortener_process.log_tail(1000)
