"""A collector that takes nothing costs the spans and nothing else."""

import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tests.backends.waiting import wait_until
from urlshortener.telemetry import Told, sending
from urlshortener.telemetry.metrics import SPANS_LOST, SPANS_SENT
from urlshortener.telemetry.sending import Sender

_SPAN = Told("GET /{code}", SpanKind.SERVER, {}, False, 1, 2, SpanContext(1, 1, False, TraceFlags(1)), None, ())


class _Collector:
    """In the exporter's place: holds whoever sends until it is let go, and says of each whether it took it."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.takes = True
        self.asked = 0

    def export(self, spans: list[Told]) -> SpanExportResult:
        self.asked += 1
        self.let_go.wait(30)
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[_Collector]:
    collector = _Collector()
    yield collector
    collector.let_go.set()


@pytest.fixture
def sender(collector: _Collector) -> Sender:
    return Sender(collector)  # type: ignore[arg-type]


def _lost_and_sent() -> tuple[float, float]:
    return SPANS_LOST._value.get(), SPANS_SENT._value.get()


def test_while_it_hangs_spans_wait_to_a_bound_and_those_above_are_counted_as_lost(
    sender: Sender, collector: _Collector
) -> None:
    lost, sent = _lost_and_sent()
    sender.on_end(_SPAN)
    wait_until(lambda: collector.asked == 1, "it hangs in the first message", within_seconds=10)
    began = time.monotonic()
    for _ in range(sending._MOST_WAITING + 500):
        sender.on_end(_SPAN)
    assert time.monotonic() - began < 1, "nobody waits"
    assert len(sender._waiting) == sending._MOST_WAITING
    assert _lost_and_sent() == (lost + 500, sent)
    collector.let_go.set()
    all_others = 1 + sending._MOST_WAITING
    wait_until(lambda: _lost_and_sent() == (lost + 500, sent + all_others), "the rest is sent", within_seconds=10)
    sender.shutdown()


def test_what_it_does_not_take_is_counted_as_lost(sender: Sender, collector: _Collector) -> None:
    lost, sent = _lost_and_sent()
    collector.takes = False
    collector.let_go.set()
    sender.on_end(_SPAN)
    wait_until(lambda: _lost_and_sent() == (lost + 1, sent), "it is counted", within_seconds=10)
    sender.shutdown()


def test_a_stop_waits_a_second_for_it_and_counts_the_rest_as_lost(sender: Sender, collector: _Collector) -> None:
    sender.on_end(_SPAN)
    wait_until(lambda: collector.asked == 1, "it hangs in the first message", within_seconds=10)
    lost, sent = _lost_and_sent()
    sender.on_end(_SPAN)
    began = time.monotonic()
    sender.shutdown()
    assert time.monotonic() - began < 2
    assert _lost_and_sent() == (lost + 1, sent)
