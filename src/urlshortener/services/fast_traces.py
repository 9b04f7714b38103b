"""The spans of redirects that take the fast way: the same as of those that take the ordinary one.

There, what goes on is known by where the code is (telemetry/traces.py: `within`). Here many requests are answered
together, so each that is traced has its spans in a FastTrace, and the others cost a question.
tests/services/test_fast_traces.py compares the two.
"""

import re
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from opentelemetry.trace import SpanContext, SpanKind

from urlshortener.services.plain_head import PlainHead
from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.traced import Answered, Tracing
from urlshortener.telemetry import FOUND_IN, SPOOL, context_below, context_of, exemplar_of, told, traceparent_of

_ROUTE = "/{code}"
_TRACEPARENT = 4  # its place in a PlainHead; empty where there is none, or none to be believed
_TRACESTATE = re.compile(rb"\r\ntracestate:[ \t]*([^\r]*)", re.IGNORECASE)
_UNSAMPLED = frozenset(b"02468ace")  # how a traceparent ends that says: not this one

# As services/fast_redirect.py has a request: who asks, for which target, from where; his head, read and as it came.
_Asked: TypeAlias = tuple[LimitedProtocol, bytes, object, PlainHead, bytes]


class FastTrace:
    """A redirect that is traced: a span for all of it, and below that one for having its access in the spool.

    Both are told of when they are over: the event takes the first one's context along before.
    """

    __slots__ = ("_began_ns", "_connection", "_error", "_own", "_parent", "_spool_ns", "_spooled_ns")

    def __init__(self, connection: LimitedProtocol, parent: SpanContext | None, began_ns: int) -> None:
        self._connection = connection
        self._parent = parent
        self._own = context_below(parent)
        self._began_ns = began_ns

    def spooling(self, more: bytes) -> bytes:
        """Its access goes to the spool: what there is to say of it, and whose trace it belongs to."""
        self._spool_ns = time.time_ns()
        return b'%b,"traceparent":"%b"' % (more, traceparent_of(self._own).encode())

    def spooled(self, error: BaseException | None) -> None:
        self._spooled_ns = time.time_ns()
        self._error = error

    def left(self, status: int) -> None:
        """The visitor has his answer."""
        error = {} if self._error is None else {"error.type": type(self._error).__name__}
        told(SPOOL, self._spool_ns, self._spooled_ns, attributes=error, parent=self._own, has_failed=bool(error))
        answered = _answered(self._connection, status)
        told(
            answered.name,
            self._began_ns,
            time.time_ns(),
            SpanKind.SERVER,
            {FOUND_IN: "memory", **answered.attributes},
            parent=self._parent,
            own=self._own,
            has_failed=answered.has_failed,
        )

    @property
    def exemplar(self) -> dict[str, str]:
        return exemplar_of(self._own)


class FastTraces:
    """Which redirects are traced, of those that take the fast way: asked once for all of a turn."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def begun(self, asked: Sequence[_Asked], decided: Sequence[int], began_ns: int) -> dict[int, FastTrace]:
        """The traces of those that have one, by their places: of those that a trusted proxy decided about the ones that
        it samples, of all others a share."""
        wanted = [place for place in decided if asked[place][3][_TRACEPARENT][-1] not in _UNSAMPLED]
        if drawn := self._tracing.drawn_of(len(asked) - len(decided)):
            others = sorted(set(range(len(asked))).difference(decided))
            wanted += [others[place] for place in drawn]
        return {place: FastTrace(asked[place][0], _parent(asked[place]), began_ns) for place in sorted(wanted)}

    def tell_of(self, untraced: Iterable[_Asked], status: int, began_ns: int, seconds: float) -> None:
        """They are over: tell of those that must not be missed."""
        ended_ns = began_ns + int(seconds * 1e9)
        for one in untraced:
            self._tracing.tell_of(_answered(one[0], status), _parent(one), began_ns, ended_ns)


def _parent(asked: _Asked) -> SpanContext | None:
    _, _, _, head, text = asked
    if not head[_TRACEPARENT]:
        return None
    return context_of(head[_TRACEPARENT].decode(), b",".join(_TRACESTATE.findall(text)).decode("latin-1"))


def _answered(connection: LimitedProtocol, status: int) -> Answered:
    return Answered("GET", _ROUTE, status, connection.scheme or "", "1.1", (connection.server or ("", 0))[1] or 0)
