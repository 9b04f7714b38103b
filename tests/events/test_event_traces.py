"""Where a message carries many traced events, one trace has its spans, and the others are linked to them."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from urlshortener.events.traces import Arrival, arrived, counting, publishing
from urlshortener.telemetry import APPLY, COUNT, PROCESS, PUBLISH, Told, context_of, trace_with

_CLICKS = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 5)]  # four visitors, each with a trace of their own


class _Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.told: list[Told] = []
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        trace_with(provider.get_tracer("test"), self.told.append)

    def begun(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(name)]


@dataclass
class _Delivery:
    arrival: Arrival | None


@pytest.fixture
def spans() -> Iterator[_Spans]:
    yield _Spans()
    trace_with(None)


def _message(*clicks: str) -> bytes:
    at = "2030-01-01T00:00:00Z"
    events = [{"accessed_at": at, "traceparent": click} for click in clicks]
    return msgspec.json.encode([*events, {"accessed_at": at}])


def _redirect(click: str) -> SpanContext:
    found = context_of(click)
    assert found is not None
    return found


def _linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def _sent_and_taken(*clicks: str) -> _Delivery:
    with publishing(_message(*clicks), "events", "access") as headers:
        pass
    return _Delivery(arrived("access_logs", headers, _message(*clicks)))


def test_a_message_is_in_the_trace_of_its_first_click_and_linked_to_the_others(spans: _Spans) -> None:
    _sent_and_taken(*_CLICKS[:3])
    first, *others = map(_redirect, _CLICKS[:3])
    (publish,) = spans.begun(PUBLISH)
    assert publish.context is not None
    assert publish.parent is not None
    assert (publish.context.trace_id, publish.parent.span_id) == (first.trace_id, first.span_id)
    assert _linked(publish) == {other.span_id for other in others}


def test_each_click_of_a_message_ends_in_its_own_trace(spans: _Spans) -> None:
    with counting([_sent_and_taken(*_CLICKS[:3])]):
        pass
    (process,) = spans.begun(PROCESS)
    assert process.context is not None
    ends = [told for told in spans.told if told.name == COUNT]
    assert {end.own.trace_id for end in ends} == {_redirect(click).trace_id for click in _CLICKS[:3]}
    for end in ends:
        assert end.parent is not None
        is_here = end.own.trace_id == process.context.trace_id
        assert is_here == (end.parent.span_id == process.context.span_id)
        assert [link.span_id for link in end.links] == ([] if is_here else [process.context.span_id])


def test_messages_that_are_counted_together_are_linked_to_the_one_call(spans: _Spans) -> None:
    untraced = _Delivery(arrived("access_logs", {}, _message()))
    with counting([_sent_and_taken(_CLICKS[0]), untraced, _sent_and_taken(_CLICKS[3])]):
        pass
    (apply,) = spans.begun(APPLY)
    first, second = spans.begun(PROCESS)
    assert apply.parent is not None
    assert apply.context is not None
    assert first.context is not None
    assert second.context is not None
    assert apply.parent.span_id == first.context.span_id
    assert _linked(apply) == {second.context.span_id}
    assert _linked(second) == {apply.context.span_id}
    assert _linked(first) == set()
    assert len([told for told in spans.told if told.name == COUNT]) == 2
