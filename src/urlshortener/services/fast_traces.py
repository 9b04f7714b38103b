"""The spans of redirects that take the fast way: the same as of those that take the ordinary one.

There, what goes on is known by where the code is (telemetry/traces.py: `within`). Here many requests are answered
together, so those of them that are traced are a TracedTurn, and the others cost a question.
tests/services/test_fast_traces.py compares the two.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TypeAlias

from opentelemetry.trace import SpanContext, SpanKind

from urlshortener.events.event import Plain
from urlshortener.services.plain_head import PlainHead
from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.traced import Answered, Tracing
from urlshortener.telemetry import (
    FOUND_IN,
    SPOOL,
    Value,
    context_below,
    context_of,
    exemplar_of,
    told,
    traceparent_of,
)

_ROUTE = "/{code}"
_TRACEPARENT = 4  # its place in a PlainHead; empty where there is none, or none to be believed
_head, _traceparent = itemgetter(2), itemgetter(_TRACEPARENT)
_TRACESTATE = re.compile(rb"\r\ntracestate:[ \t]*([^\r]*)", re.IGNORECASE)
_UNSAMPLED = frozenset(b"02468ace")  # how a traceparent ends that says: not this one

# As services/fast_redirect.py has a request: who asks, for which target; his head, read and as it came.
_Asked: TypeAlias = tuple[LimitedProtocol, bytes, PlainHead, bytes]

# One that is traced: who asks, the span that it comes from, and its own.
_Redirect: TypeAlias = tuple[LimitedProtocol, SpanContext | None, SpanContext]


class TracedTurn:
    """Those redirects of a turn that are traced: each has a span for all of it, and below that one for having its
    access in the spool. Both are told of when they are over: the event takes the first one's context along before.
    """

    __slots__ = ("_began_ns", "_error", "_redirects", "_spool_ns", "_spooled_ns", "exemplar")

    def __init__(self, asked: Sequence[_Asked], places: Iterable[int], began_ns: int) -> None:
        self._redirects: dict[int, _Redirect] = {}
        for place in places:
            parent = _parent(asked[place])
            self._redirects[place] = asked[place][0], parent, context_below(parent)
        self._began_ns = began_ns

    def __contains__(self, place: int) -> bool:
        return place in self._redirects

    def spooling(self, accesses: list[Plain]) -> None:
        """All go to the spool: those that are traced say so."""
        for place, (_, _, own) in self._redirects.items():
            access = accesses[place]
            accesses[place] = (*access[:-1], b'%b,"traceparent":"%b"' % (access[-1], traceparent_of(own).encode()))
            self.exemplar = exemplar_of(own)  # the last one's stays
        self._spool_ns = time.time_ns()

    def spooled(self, error: BaseException | None) -> None:
        self._spooled_ns = time.time_ns()
        self._error = {} if error is None else {"error.type": type(error).__name__}

    def left(self, status: int) -> None:
        """The visitors have their answers."""
        now = time.time_ns()
        error, has_failed = self._error, bool(self._error)
        for connection, parent, own in self._redirects.values():
            told(SPOOL, self._spool_ns, self._spooled_ns, attributes=error, parent=own, has_failed=has_failed)
            name, attributes = _from_memory(status, connection.scheme, connection.server)
            began, kind = self._began_ns, SpanKind.SERVER
            told(name, began, now, kind, attributes, parent=parent, own=own, has_failed=has_failed)


class FastTraces:
    """Which redirects are traced, of those that take the fast way: asked once for all of a turn."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def begun(self, asked: Sequence[_Asked], began_ns: int) -> TracedTurn | None:
        """Those that are traced: of those that a trusted proxy decided about the ones that it samples; all others, in
        a share of the turns. So each is traced as often as if it were drawn by itself, and most find at hand what
        tracing takes; one alone in a turn has to fetch it from memory, which costs several times as much."""
        is_wanted = self._tracing.is_turn_wanted()
        if not is_wanted and not any(map(_traceparent, map(_head, asked))):  # nearly always: so without a loop of ours
            return None
        places = [
            place
            for place, (_, _, head, _) in enumerate(asked)
            if (head[_TRACEPARENT][-1] not in _UNSAMPLED if head[_TRACEPARENT] else is_wanted)
        ]
        return TracedTurn(asked, places, began_ns) if places else None

    def tell_of(self, untraced: Iterable[_Asked], status: int, began_ns: int, seconds: float) -> None:
        """They are over: tell of those that must not be missed."""
        ended_ns = began_ns + int(seconds * 1e9)
        for one in untraced:
            self._tracing.tell_of(_answered(status, one[0].scheme, one[0].server), _parent(one), began_ns, ended_ns)


def _parent(asked: _Asked) -> SpanContext | None:
    _, _, head, text = asked
    if not head[_TRACEPARENT]:
        return None
    return context_of(head[_TRACEPARENT].decode(), b",".join(_TRACESTATE.findall(text)).decode("latin-1"))


def _answered(status: int, scheme: str | None, server: tuple[str, int | None] | None) -> Answered:
    return Answered("GET", _ROUTE, status, scheme or "", "1.1", (server or ("", 0))[1] or 0)


@lru_cache(64)
def _from_memory(
    status: int, scheme: str | None, server: tuple[str, int | None] | None
) -> tuple[str, Mapping[str, Value]]:
    """Name and attributes of a span: there are few, and to put them together would cost more than all else."""
    answered = _answered(status, scheme, server)
    return answered.name, {FOUND_IN: "memory", **answered.attributes}
