"""Spans, and every name that they use. One trace leads from the click to the counter:

    GET /{code}                 shortener-service, while the visitor waits
      batch of links            a lookup, or a transaction of creates, which many requests may share
        SELECT links            its statements
      spool access event        until the event is in a file
      wait in spool             until it was sent
      publish events            until the broker confirmed the message that it is in
        wait in queue           until somebody took the message
        process access_logs     analytics-service, until its events were counted
          apply batch           one call for all that is counted together
            FCALL               its command
          count access event    the end of the click's trace; of each traced event

A message of many events is part of the trace of its first one that is traced, and linked to the others; those end
with a `count access event` of their own, which links to it.

In no span: a code, a target, an address of a visitor, a header, a parameter of a statement.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from random import getrandbits
from typing import NamedTuple

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

BATCH = "batch of links"
SPOOL = "spool access event"
WAIT_IN_SPOOL = "wait in spool"
PUBLISH = "publish"
WAIT_IN_QUEUE = "wait in queue"
PROCESS = "process"
APPLY = "apply batch"
COUNT = "count access event"

# Ours. All other attributes are OpenTelemetry's own (tests/telemetry/test_traces.py holds them to its list).
FOUND_IN = "urlshortener.link.found_in"  # memory, stale memory, replica, primary
KEPT_BECAUSE = "urlshortener.kept_because"  # slow, failed: not sampled, and told of all the same
BATCH_SIZE = "urlshortener.batch.size"
EVENT_AGE = "urlshortener.event.age_seconds"

Value = str | bool | int | float


class Told(NamedTuple):
    """A span that is over, as it was told: it is encoded by the thread that sends it (telemetry/wire.py)."""

    name: str
    kind: SpanKind
    attributes: Mapping[str, Value]
    has_failed: bool
    began_ns: int
    ended_ns: int
    own: SpanContext
    parent: SpanContext | None
    links: Iterable[SpanContext]


_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_W3C = TraceContextTextMapPropagator()
_tracer: Tracer | None = None
_tell: Callable[[Told], None] | None = None


def is_tracing() -> bool:
    """Whether there is anybody to send spans to."""
    return _tracer is not None


def trace_with(tracer: Tracer | None, tell: Callable[[Told], None] | None = None) -> None:
    """Begin spans with this tracer from now on, and hand those that are told to `tell`; with None, make no more."""
    global _tracer, _tell
    _tracer, _tell = tracer, tell


def context_of(traceparent: str, tracestate: str = "") -> SpanContext | None:
    """What a header, or an event, says of the span that it comes from; None where it says nothing."""
    if not traceparent:
        return None
    extracted = _W3C.extract({"traceparent": traceparent, "tracestate": tracestate}, context.Context())
    found = trace.get_current_span(extracted).get_span_context()
    return found if found.is_valid else None


def traceparent_of(context: SpanContext) -> str:
    trace_id, span_id, *_ = context  # its properties cost more than all else here
    return f"00-{trace_id:032x}-{span_id:016x}-01"


# spans


def current() -> Span | None:
    """The span of what is going on here, where that is traced."""
    if _tracer is None:
        return None
    span = trace.get_current_span()
    return span if span.is_recording() else None


def exemplar() -> dict[str, str] | None:
    """What leads from a metric to the trace of what is going on here."""
    span = current()
    return None if span is None else exemplar_of(span.get_span_context())


def exemplar_of(context: SpanContext) -> dict[str, str]:
    """The same of a span whose context is known."""
    trace_id, span_id, *_ = context
    return {"trace_id": f"{trace_id:032x}", "span_id": f"{span_id:016x}"}


def begun(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    *,
    parent: SpanContext | None,
    links: Iterable[SpanContext] = (),
    at_ns: int | None = None,
) -> Span:
    """A span below `parent` (None: the first of its trace), which its owner ends."""
    if _tracer is None:
        return trace.INVALID_SPAN
    return _tracer.start_span(
        name, _below(parent), kind, dict(attributes or {}), [Link(each) for each in links], start_time=at_ns
    )


def context_below(parent: SpanContext | None) -> SpanContext:
    """The context of a span that is told of when it is over."""
    trace_id = getrandbits(128) if parent is None else parent.trace_id
    return SpanContext(trace_id, getrandbits(64), False, _SAMPLED, parent and parent.trace_state)


def told(
    name: str,
    began_ns: int,
    ended_ns: int,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    *,
    parent: SpanContext | None,
    links: Iterable[SpanContext] = (),
    own: SpanContext | None = None,
    has_failed: bool = False,
) -> None:
    """A span of what is over, for a tenth of what one costs that is begun and ended. `own` is its context, where it had
    to be known before. Two machines' clocks may differ: it never ends before it began."""
    if _tell is None:
        return
    own = own or context_below(parent)
    _tell(Told(name, kind, attributes or {}, has_failed, began_ns, max(began_ns, ended_ns), own, parent, links))


def _below(parent: SpanContext | None) -> context.Context:
    nothing = context.Context()
    return nothing if parent is None else trace.set_span_in_context(trace.NonRecordingSpan(parent), nothing)


@contextmanager
def within(span: Span) -> Iterator[Span]:
    """What goes on inside goes on in this span, which ends with it, and says how."""
    token = context.attach(trace.set_span_in_context(span, context.Context()))
    try:
        yield span
    except BaseException as error:
        failed(span, error)
        raise
    finally:
        context.detach(token)
        span.end()


def failed(span: Span, error: BaseException) -> None:
    """By its type only: messages of drivers may hold what must not be in a span."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))


@contextmanager
def spooling() -> Iterator[str | None]:
    """An access event is being spooled: gives the `traceparent` that it takes along, where the request is traced."""
    request = current()
    if request is None:
        yield None
        return
    with within(begun(SPOOL, parent=request.get_span_context())):
        yield traceparent_of(request.get_span_context())


def asking() -> SpanContext | None:
    """Who asks, for `together`."""
    span = current()
    return None if span is None else span.get_span_context()


@contextmanager
def together(askers: Iterable[SpanContext | None], size: int) -> Iterator[None]:
    """Work that several requests share: below the first that is traced, and linked to the others.

    Also where none is: the task may have been started by one that is over, and not shared this.
    """
    if _tracer is None:
        yield
        return
    traced = [asker for asker in askers if asker is not None]
    span: Span = trace.INVALID_SPAN
    if traced:
        span = begun(BATCH, attributes={BATCH_SIZE: size}, parent=traced[0], links=traced[1:])
    with within(span):
        yield


@contextmanager
def database_call(system: str, operation: str, attributes: Mapping[str, Value]) -> Iterator[None]:
    """A command to a database, by OpenTelemetry's conventions."""
    around = current()
    if around is None:
        yield
        return
    with within(
        begun(
            operation,
            SpanKind.CLIENT,
            {"db.system.name": system, "db.operation.name": operation, **attributes},
            parent=around.get_span_context(),
        )
    ):
        yield


def statement_told(system: str, statement: str, seconds: float, error: BaseException | None = None) -> None:
    """A statement that has just ended, below what goes on here. Of it, only verb and table are told."""
    around = current()
    if around is None:
        return
    summary, attributes = _summary(statement)
    now = time.time_ns()
    span = begun(
        summary,
        SpanKind.CLIENT,
        {"db.system.name": system, "db.query.summary": summary, **attributes},
        parent=around.get_span_context(),
        at_ns=now - int(seconds * 1e9),
    )
    if error is not None:
        failed(span, error)
    span.end(now)


def _summary(statement: str) -> tuple[str, dict[str, Value]]:
    words = statement.replace("(", " ").replace(";", " ").split()
    operation = words[0].upper() if words else "statement"
    collection = next((after for before, after in pairwise(words) if before.upper() in _INTO), "")
    attributes: dict[str, Value] = {"db.operation.name": operation}
    if operation not in _WITH_A_TABLE or not collection.isidentifier():
        return operation, attributes
    return f"{operation} {collection}", attributes | {"db.collection.name": collection}


_INTO = ("FROM", "INTO", "UPDATE")
_WITH_A_TABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
