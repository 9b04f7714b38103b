"""The spans of redirects that take the fast way: the same as of those that take the ordinary one.

There, what goes on is known by where the code is (telemetry/traces.py: `within`). Here many requests are answered
together, so each that is traced has its spans in a FastTrace, and the others cost a question.
tests/services/test_fast_traces.py compares the two.
"""

import re
import time

from opentelemetry.trace import SpanContext, SpanKind

from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.traced import Answered, Tracing, fail_if
from urlshortener.telemetry import FOUND_IN, SPOOL, begun, context_of, exemplar_of, failed, traceparent_of

_ROUTE = "/{code}"
_TRACESTATE = re.compile(rb"\r\ntracestate:[ \t]*([^\r]*)", re.IGNORECASE)
_UNSAMPLED = frozenset(b"02468ace")  # how a traceparent ends that says: not this one


class FastTrace:
    """A redirect that is traced: a span for all of it, and below that one for having its access in the spool."""

    __slots__ = ("_connection", "_redirect", "_spool")

    def __init__(self, connection: LimitedProtocol, parent: SpanContext | None) -> None:
        self._connection = connection
        self._redirect = begun(f"GET {_ROUTE}", SpanKind.SERVER, {FOUND_IN: "memory"}, parent=parent)

    def spooling(self, more: bytes) -> bytes:
        """Its access goes to the spool: what there is to say of it, and whose trace it belongs to."""
        self._spool = begun(SPOOL, parent=self._redirect.get_span_context())
        return b'%b,"traceparent":"%b"' % (more, traceparent_of(self._redirect).encode())

    def spooled(self, error: BaseException | None) -> None:
        if error is not None:
            failed(self._spool, error)
        self._spool.end()

    def left(self, status: int) -> None:
        """The visitor has his answer."""
        answered = _answered(self._connection, status)
        self._redirect.set_attributes(answered.attributes)
        fail_if(self._redirect, answered)
        self._redirect.end()

    @property
    def exemplar(self) -> dict[str, str]:
        return exemplar_of(self._redirect)


class FastTraces:
    """Which redirects are traced, of those that take the fast way.

    A `traceparent` is empty where there is none, or none to be believed.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def begun(self, connection: LimitedProtocol, traceparent: bytes, head: bytes) -> FastTrace | None:
        """The trace of a request that has one."""
        if traceparent and traceparent[-1] in _UNSAMPLED:
            return None
        parent = _parent(traceparent, head)
        return FastTrace(connection, parent) if self._tracing.is_wanted(parent) else None

    def tell_of(
        self, connection: LimitedProtocol, traceparent: bytes, head: bytes, status: int, seconds: float
    ) -> None:
        """A request that has no trace is over: tell of it if it must not be missed."""
        ended_ns = time.time_ns()
        began_ns = ended_ns - int(seconds * 1e9)
        self._tracing.tell_of(_answered(connection, status), _parent(traceparent, head), began_ns, ended_ns)


def _parent(traceparent: bytes, head: bytes) -> SpanContext | None:
    if not traceparent:
        return None
    return context_of(traceparent.decode(), b",".join(_TRACESTATE.findall(head)).decode("latin-1"))


def _answered(connection: LimitedProtocol, status: int) -> Answered:
    return Answered("GET", _ROUTE, status, connection.scheme or "", "1.1", (connection.server or ("", 0))[1] or 0)
