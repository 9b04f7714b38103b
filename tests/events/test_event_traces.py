"""Where a message carries many traced events, one trace has its spans, and the others are linked to them."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from tests.backends.kept_spans import KeptSpans, spans_kept
from tests.backends.otlp import ReceivedSpan
from urlshortener.events.traces import Arrival, arrived, counting, publishing
from urlshortener.telemetry import APPLY, COUNT, PROCESS, PUBLISH

_CLICKS = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 5)]  # four visitors, each with a trace of their own
_TRACES = [click.split("-")[1] for click in _CLICKS]
_REDIRECTS = [click.split("-")[2] for click in _CLICKS]


@dataclass
class _Delivery:
    arrival: Arrival | None


@pytest.fixture
def spans() -> Iterator[KeptSpans]:
    with spans_kept() as kept:
        yield kept


def _named(spans: KeptSpans, name: str) -> list[ReceivedSpan]:
    return [span for span in spans.sent if span.name.startswith(name)]


def _message(*clicks: str) -> bytes:
    at = "2030-01-01T00:00:00Z"
    events = [{"accessed_at": at, "traceparent": click} for click in clicks]
    return msgspec.json.encode([*events, {"accessed_at": at}])


def _sent_and_taken(*clicks: str) -> _Delivery:
    with publishing(_message(*clicks), "events", "access") as headers:
        pass
    return _Delivery(arrived("access_logs", headers, _message(*clicks)))


def test_a_message_is_in_the_trace_of_its_first_click_and_linked_to_the_others(spans: KeptSpans) -> None:
    _sent_and_taken(*_CLICKS[:3])
    (publish,) = _named(spans, PUBLISH)
    assert (publish.trace, publish.parent) == (_TRACES[0], _REDIRECTS[0])
    assert publish.links == set(_REDIRECTS[1:3])


def test_each_click_of_a_message_ends_in_its_own_trace(spans: KeptSpans) -> None:
    with counting([_sent_and_taken(*_CLICKS[:3])]):
        pass
    (process,) = _named(spans, PROCESS)
    assert process.trace == _TRACES[0]
    ends = {end.trace: end for end in _named(spans, COUNT)}
    assert list(ends) == _TRACES[:3]
    assert [ends[trace].parent for trace in _TRACES[:3]] == [process.id, *_REDIRECTS[1:3]]
    assert [ends[trace].links for trace in _TRACES[:3]] == [set(), {process.id}, {process.id}]


def test_messages_that_are_counted_together_are_linked_to_the_one_call(spans: KeptSpans) -> None:
    untraced = _Delivery(arrived("access_logs", {}, _message()))
    with counting([_sent_and_taken(_CLICKS[0]), untraced, _sent_and_taken(_CLICKS[3])]):
        pass
    (apply,) = _named(spans, APPLY)
    first, second = _named(spans, PROCESS)
    assert (first.trace, second.trace) == (_TRACES[0], _TRACES[3])
    assert (apply.parent, apply.links) == (first.id, {second.id})
    assert (first.links, second.links) == (set(), {apply.id})
    assert len(_named(spans, COUNT)) == 2
