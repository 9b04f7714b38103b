"""The spans of events on their way, so that one trace leads from the click to the counter.

A traced redirect's event has its `traceparent`; of all others nothing here costs more than a look for that word in the
bytes of a message. The message's headers carry the span of its publishing and when that began. telemetry/traces.py
draws the whole tree.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec
from opentelemetry.trace import Span, SpanContext, SpanKind

from urlshortener.telemetry import (
    APPLY,
    COUNT,
    EVENT_AGE,
    PROCESS,
    PUBLISH,
    WAIT_IN_QUEUE,
    WAIT_IN_SPOOL,
    Value,
    begun,
    context_of,
    failed,
    is_tracing,
    told,
    traceparent_of,
    within,
)

_MARK = b'"traceparent":"'  # inside a string of JSON its quotes would be escaped


class _Written(msgspec.Struct):
    """Of an event on the wire, what its spans need."""

    accessed_at: datetime
    traceparent: str = ""


_several = msgspec.json.Decoder(list[_Written])


@dataclass(frozen=True, slots=True)
class TracedEvent:
    at_ns: int
    redirect: SpanContext


def _traced_in(events: bytes) -> list[TracedEvent]:
    """Those of some events that are traced; `events` is JSON, with commas between."""
    if _MARK not in events:
        return []
    try:
        written = _several.decode(b"[%b]" % events.strip(b"[]"))
    except msgspec.DecodeError:  # not ours: whoever reads them as events will say so
        return []
    found = [(event, context_of(event.traceparent)) for event in written if event.traceparent]
    return [TracedEvent(int(event.accessed_at.timestamp() * 1e9), redirect) for event, redirect in found if redirect]


# the publishing end


@contextmanager
def publishing(events: bytes, exchange: str, routing_key: str) -> Iterator[dict[str, Any]]:
    """A message is sent and confirmed inside, with these headers; it failed if that raises."""
    traced = _traced_in(events) if is_tracing() else []
    if not traced:
        yield {}
        return
    first, *others = traced
    now = time.time_ns()
    told(WAIT_IN_SPOOL, first.at_ns, now, parent=first.redirect)
    destination = f"{exchange}:{routing_key}"
    attributes: dict[str, Value] = {
        **_messaging("publish", "send", destination),
        "messaging.rabbitmq.destination.routing_key": routing_key,
        "messaging.message.body.size": len(events),
    }
    links = [event.redirect for event in others]
    name = f"{PUBLISH} {destination}"
    with within(begun(name, SpanKind.PRODUCER, attributes, parent=first.redirect, links=links, at_ns=now)) as span:
        yield {"traceparent": traceparent_of(span.get_span_context()), "sent_at_us": now // 1000}


def _messaging(operation: str, kind: str, destination: str) -> dict[str, Value]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


# the counting end


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message with traced events, or a batch of the spool, when somebody took it."""

    source: str
    events: Sequence[TracedEvent]
    parent: SpanContext
    taken_ns: int = field(default_factory=time.time_ns)


def arrived(queue: str, headers: Mapping[str, Any] | None, body: bytes) -> Arrival | None:
    """What is to be told of a message that came from the queue; None of most."""
    if not headers or "traceparent" not in headers or not is_tracing():
        return None
    parent = context_of(str(headers["traceparent"]))
    sent_us = headers.get("sent_at_us")
    if parent is None or not isinstance(sent_us, int):
        return None
    arrival = Arrival(queue, _traced_in(body), parent)
    told(WAIT_IN_QUEUE, sent_us * 1000, arrival.taken_ns, parent=parent)
    return arrival


def taken(events: bytes) -> Arrival | None:
    """The same of events that came from this process' own spool."""
    traced = _traced_in(events) if is_tracing() else []
    if not traced:
        return None
    arrival = Arrival("spool", traced, traced[0].redirect)
    told(WAIT_IN_SPOOL, traced[0].at_ns, arrival.taken_ns, parent=traced[0].redirect)
    return arrival


class Arrived(Protocol):
    @property
    def arrival(self) -> Arrival | None: ...


@contextmanager
def counting(deliveries: Sequence[Arrived]) -> Iterator[None]:
    """All of them are counted inside, in one call; none is if that raises."""
    arrivals = [delivery.arrival for delivery in deliveries if delivery.arrival is not None]
    if not arrivals:
        yield
        return
    spans = [_processing(arrival) for arrival in arrivals]
    contexts = [span.get_span_context() for span in spans]
    apply = begun(
        APPLY, attributes={"messaging.batch.message_count": len(deliveries)}, parent=contexts[0], links=contexts[1:]
    )
    for other in spans[1:]:
        other.add_link(apply.get_span_context())
    try:
        with within(apply):
            yield
    except BaseException as error:
        for span in spans:
            failed(span, error)
            span.end()
        raise
    for arrival, span in zip(arrivals, spans, strict=True):
        _tell_counted(arrival, span)


def _processing(arrival: Arrival) -> Span:
    attributes = _messaging("process", "process", arrival.source)
    if arrival.source == "spool":
        attributes["messaging.system"] = "urlshortener"
    return begun(
        f"{PROCESS} {arrival.source}", SpanKind.CONSUMER, attributes, parent=arrival.parent, at_ns=arrival.taken_ns
    )


def _tell_counted(arrival: Arrival, process: Span) -> None:
    """The end of each traced event, in its own trace."""
    now = time.time_ns()
    here = process.get_span_context()
    for event in arrival.events:
        is_here = event.redirect.trace_id == here.trace_id
        age = {EVENT_AGE: round((now - event.at_ns) / 1e9, 6)}
        told(
            COUNT,
            arrival.taken_ns,
            now,
            attributes=age,
            parent=here if is_here else event.redirect,
            links=() if is_here else (here,),
        )
    process.end(now)
