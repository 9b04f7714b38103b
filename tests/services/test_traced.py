"""Which requests become spans, and what these hold; on spans that are kept in memory."""

import asyncio
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from tests.backends.kept_spans import KeptSpans, spans_kept
from tests.backends.otlp import ReceivedSpan
from urlshortener.services import traced as traced_module
from urlshortener.services.caller import Proxies
from urlshortener.services.traced import Traced, Tracing
from urlshortener.telemetry import Sampling, current, exemplar

_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


@pytest.fixture
def spans() -> Iterator[KeptSpans]:
    with spans_kept() as kept:
        yield kept


class _App:
    """A Measured application that answers as it is told."""

    def __init__(self, status: int = 307, seconds: float = 0.0) -> None:
        self.status = status
        self.seconds = seconds
        self.was_traced = False
        self.exemplar: dict[str, str] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.was_traced = current() is not None
        self.exemplar = exemplar()
        await asyncio.sleep(self.seconds)
        scope["route_template"], scope["response_status"] = "/{code}", self.status


async def _asked(app: _App, *, ratio: float = 0, traceparent: str = "", peer: str = "127.0.0.1", **more: Any) -> None:
    traced = Traced(app, Proxies([ip_network("127.0.0.0/8")]), Tracing(Sampling(ratio)))
    headers = [(b"traceparent", traceparent.encode())] if traceparent else []
    scope = {"type": "http", "method": "GET", "scheme": "http", "http_version": "1.1", "path": "/cat", **more}
    await traced(scope | {"headers": headers, "client": (peer, 1)}, _nothing, _nothing)


async def _nothing(*_: Any) -> Any:
    return {}


def _only(spans: KeptSpans) -> ReceivedSpan:
    (span,) = spans.sent
    return span


async def test_a_trusted_proxys_trace_is_continued(spans: KeptSpans) -> None:
    await _asked(_App(), traceparent=f"{_PARENT}-01")
    span = _only(spans)
    assert f"00-{span.trace}-{span.parent}" == _PARENT
    assert span.name == "GET /{code}"
    assert "cat" not in str(span)


async def test_what_a_trusted_proxy_does_not_sample_is_not_sampled(spans: KeptSpans) -> None:
    await _asked(_App(), ratio=1, traceparent=f"{_PARENT}-00")
    assert spans.sent == []


async def test_nobody_elses_trace_is_continued(spans: KeptSpans) -> None:
    await _asked(_App(), ratio=1, traceparent=f"{_PARENT}-01", peer="192.0.2.1")
    await _asked(_App(), ratio=0, traceparent=f"{_PARENT}-01", peer="192.0.2.1")
    assert _only(spans).parent == ""


async def test_a_failed_request_that_was_not_sampled_is_told_of_all_the_same(spans: KeptSpans) -> None:
    app = _App(503)
    await _asked(app, traceparent=f"{_PARENT}-00")
    span = _only(spans)
    assert not app.was_traced
    assert (span.attributes["urlshortener.kept_because"], span.attributes["error.type"]) == ("failed", "503")


async def test_so_is_a_slow_one(spans: KeptSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced_module, "SLOW_SECONDS", 0.01)
    await _asked(_App(seconds=0.02))
    span = _only(spans)
    assert span.attributes["urlshortener.kept_because"] == "slow"
    assert span.milliseconds >= 20


async def test_an_outage_is_told_of_by_a_few(spans: KeptSpans) -> None:
    app = _App(503)
    traced = Traced(app, Proxies([]), Tracing(Sampling(0)))
    for _ in range(100):
        scope = {"type": "http", "method": "GET", "scheme": "http", "http_version": "1.1", "path": "/", "headers": []}
        await traced(scope, _nothing, _nothing)
    assert 10 <= len(spans.sent) <= 20  # the second may have turned


async def test_a_metric_can_lead_to_the_trace(spans: KeptSpans) -> None:
    sampled, unsampled = _App(), _App()
    await _asked(sampled, ratio=1)
    await _asked(unsampled, ratio=0)
    span = _only(spans)
    assert sampled.exemplar == {"trace_id": span.trace, "span_id": span.id}
    assert unsampled.exemplar is None
