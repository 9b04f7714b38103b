"""The short way for a known link: from the bytes of a request to the bytes of its redirect, without any framework.

**The idea.** Following a link is a lookup and a header, and nearly every request that comes is a plain one: `GET`, a
code, the headers that browsers and proxies send. So each connection looks at what arrives before the HTTP parser does.
Whole heads that services/plain_head.py understands to the last byte, for links that are in memory, are answered here.
**Everything else goes the ordinary way with its bytes untouched**: half a head, another method or version, a body, an
upgrade, a code that is not known, a link that is over, a request that is to be logged. Whatever is taken here, the
ordinary way would answer with the very same bytes, the same event and the same spans:
tests/services/test_fast_redirect.py compares the two on whatever hypothesis makes up.

**A turn.** All that arrives in one turn of the event loop is read together at the beginning of the next, and written to
the spool with one `write`. The replies leave together right after it, or with SPOOL_MODE=strict when the broker has
them. Where more than 128 arrive, these are a turn of their own, and so on: their connections are still at hand then.

**Order.** While an answer of a connection is owed, whichever way it takes, no other way is taken: what arrives behind
something that is not read yet, or while replies wait for the spool, is kept, and reading pauses; what arrives while the
ordinary way is at work goes there.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgspec

from urlshortener.events.event import Plain
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links.cache import microseconds
from urlshortener.links.directory import Directory
from urlshortener.services import plain_head
from urlshortener.services.caller import Proxies
from urlshortener.services.fast_replies import Replies, Tally
from urlshortener.services.fast_traces import FastTraces, TracedTurn
from urlshortener.services.plain_head import MOST_BYTES, PlainHead, has_plain_lines
from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.traced import SLOW_SECONDS, Tracing

_AT_A_TIME = 128  # are taken through all steps, up to their replies: so many fit into a processor's cache
_MOST_CALLERS = 16_384
_REMEMBERED_HEADERS = 4_096


class Caller(NamedTuple):
    """Who asks: the address in full, for the visitor's hash, and what an event may say of it, as JSON."""

    address: bytes = b""
    shown: bytes = b"null"


class Said(NamedTuple):
    """What a header said, as an event has it and as the visitor's hash has it."""

    json: bytes
    text: bytes


class _Turn(NamedTuple):
    """What all redirects of one turn of the event loop share."""

    at: datetime
    began: float
    began_ns: int


# Who waits for which target, and what he sent: as it was understood, and as it came.
_Asked: TypeAlias = "tuple[FastProtocol, bytes, PlainHead, bytes]"


class FastRedirects:
    """What all connections of the shortener's door share.

    `is_logged` says whether the next request is to be logged: then it takes the ordinary way, which knows how to.
    """

    def __init__(
        self,
        directory: Directory,
        spool: Spool,
        visitors: Visitors,
        proxies: Proxies,
        *,
        referrer_policy: str,
        request_id_header: str,
        service_name: str,
        now: Callable[[], datetime],
        is_logged: Callable[[], bool] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._live_target = directory.live_target
        self._spool = spool
        self._visitors = visitors
        self._proxies = proxies
        self._now = now
        self._is_logged = is_logged
        self._traces = None if tracing is None else FastTraces(tracing)
        self._replies = Replies(referrer_policy)
        self._tally = Tally(service_name)
        self._callers: dict[bytes, Caller] = {}  # by what a proxy says
        self._turn: _Turn | None = None
        self.arrived: list[tuple[FastProtocol, bytes]] = []  # from connections that are owed nothing, and not taken yet
        self._of_proxies = plain_head.reader(request_id_header)
        self._of_anybody = plain_head.reader(None)

    def connection(self, *args: Any, **kwargs: Any) -> "FastProtocol":
        """A protocol for a new connection, as the runner wants one."""
        return FastProtocol(*args, redirects=self, **kwargs)

    def reader(self, peer: str | None) -> plain_head.Reader:
        """How heads from there are read: what a proxy says of its visitor is believed."""
        return self._of_proxies if self._proxies.are(peer) else self._of_anybody

    def caller(self, peer: str | None, forwarded_for: bytes = b"") -> Caller:
        """Who asks on a connection from there."""
        address = self._proxies.address(peer, forwarded_for.decode("latin-1"))
        return Caller((address or "").encode(), msgspec.json.encode(self._visitors.address(address)))

    def _new_caller(self, connection: "FastProtocol", forwarded_for: bytes) -> Caller:
        """The one whom a proxy names, remembered from now on: whoever is named is the same for all proxies."""
        caller = self.caller(connection.peer, forwarded_for)
        if caller == connection.caller:  # it names nobody
            return caller
        if len(self._callers) >= _MOST_CALLERS:
            self._callers.clear()  # to keep an order in which they came last would cost each request more
        return self._callers.setdefault(forwarded_for, caller)

    def begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first arrives: of a turn of the loop, or after so many in it that those were not to wait for its end."""
        self._turn = _Turn(self._now(), time.perf_counter(), time.time_ns())
        loop.call_soon(self.end_turn)

    def end_turn(self) -> None:
        """Have the accesses of those that arrived in the spool, and their replies wait for it."""
        turn, arrived = self._turn, self.arrived[:]
        if turn is None:  # it ended early
            return
        self._turn = None
        self.arrived.clear()
        try:
            asked = self._understood(arrived, microseconds(turn.at))
            accesses = self._accesses_of(asked, turn.at)
        except Exception:  # a defect: none of them can be answered, nor must anybody wait
            for connection, _ in arrived:
                connection.transport.abort()
            raise
        if not asked:
            return
        traced = None if self._traces is None else self._traces.begun(asked, turn.began_ns)
        if traced is not None:
            traced.spooling(accesses)
        written = self._spool.append_plain(turn.at, accesses)
        if written.done():
            self._release(asked, traced, turn, written.exception())
        else:
            written.add_done_callback(lambda written: self._release(asked, traced, turn, written.exception()))

    def _understood(self, arrived: "Sequence[tuple[FastProtocol, bytes]]", now: int) -> list[_Asked]:
        """The plain requests for links that are live now, as far as that is known here. All else is handed over."""
        are_plain = has_plain_lines(b"".join([data for _, data in arrived]))
        read = [connection.read(data) if are_plain or has_plain_lines(data) else [] for connection, data in arrived]
        asked: list[_Asked] = []
        for (connection, data), heads in zip(arrived, read, strict=True):
            before = len(asked)
            for head, text in heads:
                target = self._live_target(head[0], now)
                if target is None or (self._is_logged is not None and self._is_logged()):
                    del asked[before:]
                    break
                asked.append((connection, target, head, text))
            if len(asked) > before:
                connection.owed = len(heads)
            else:
                connection.loop.call_soon(connection.hand_over, data)
        return asked

    def _accesses_of(self, asked: Sequence[_Asked], at: datetime) -> list[Plain]:
        """What the spool is to have of each. Each step is taken for all of them before the next: a processor that does
        the same again and again has code and data at hand."""
        known = self._callers.get
        callers = [
            (known(head[3]) or self._new_caller(connection, head[3])) if head[3] else connection.caller
            for connection, _, head, _ in asked
        ]
        agents = [_said(head[1]) for _, _, head, _ in asked]
        keyed = self._visitors.keyed(at)
        visitors = []
        for (address, _), (_, text) in zip(callers, agents, strict=True):
            visitor = keyed.copy()
            visitor.update(b"%b\0%b" % (address, text))
            visitors.append(visitor.hexdigest().encode())
        return [
            (code, agent, shown, _said(referer)[0], visitor, b',"request_id":"%b"' % request_id if request_id else b"")
            for (_, _, (code, _, referer, _, _, request_id), _), (_, shown), (agent, _), visitor in zip(
                asked, callers, agents, visitors, strict=True
            )
        ]

    def _release(
        self, asked: list[_Asked], traced: TracedTurn | None, turn: _Turn, error: BaseException | None
    ) -> None:
        """The accesses are in the spool: their visitors may leave. Only a strict spool may say that they must not."""
        if traced is not None:
            traced.spooled(error)
        start, end = self._replies.around_target(asked[0][0].server_state.default_headers)
        idle_until = asked[0][0].idle_until()
        for connection, target, _, text in asked:
            reply = b"".join((start, target, end)) if error is None else self._replies.refusal(text, error)
            connection.leave(reply, idle_until)
        seconds = time.perf_counter() - turn.began
        self._tally.add(len(asked), seconds, error, None if traced is None else traced.exemplar)
        status = 307 if error is None else 503
        if traced is not None:
            traced.left(status)
        if self._traces is not None and (error is not None or seconds > SLOW_SECONDS):
            untraced = [one for place, one in enumerate(asked) if traced is None or place not in traced]
            self._traces.tell_of(untraced, status, turn.began_ns, seconds)


@lru_cache(_REMEMBERED_HEADERS)
def _said(header: bytes) -> Said:
    text = header.decode("latin-1")
    return Said(msgspec.json.encode(text or None), text.encode())


class FastProtocol(LimitedProtocol):
    """One connection of the shortener's door."""

    def __init__(self, *args: Any, redirects: FastRedirects, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._redirects = redirects
        self._arrived = redirects.arrived
        self._kept = b""  # arrived while replies wait
        self._is_leaving = False
        self.owed = 0  # replies that wait, or what is to be read
        self.peer: str | None = None
        self.caller = Caller()
        self.read = redirects.reader(None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else None
        self.caller = self._redirects.caller(self.peer)
        self.read = self._redirects.reader(self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._kept = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.owed or self.flow.write_paused:
            self._kept += data
            self.flow.pause_reading()
        elif self._bytes or (self.cycle is not None and not self.cycle.response_complete):
            super().data_received(data)  # the ordinary way is not done with what came before
        elif len(data) > MOST_BYTES or not data.startswith(b"GET /"):
            super().data_received(data)  # a look says that it takes the ordinary way
        else:
            self.owed = 1  # or more: it is not read yet
            if not self._arrived:
                self._redirects.begin_turn(self.loop)
            self._arrived.append((self, data))
            if len(self._arrived) == _AT_A_TIME:
                self._redirects.end_turn()

    def hand_over(self, data: bytes) -> None:
        """What arrived goes the ordinary way, and what came behind it too."""
        self.owed = 0
        super().data_received(data)
        if self._kept:
            self._go_on()
        if self._is_leaving:
            super().shutdown()

    def leave(self, reply: bytes, idle_until: float) -> None:
        """Send a reply that waited, and go on with what came behind the last of them."""
        self.owed -= 1
        if self.transport.is_closing():
            return
        if self._is_leaving and not self.owed:
            head, blank, body = reply.partition(b"\r\n\r\n")
            self.transport.write(head + b"\r\nconnection: close" + blank + body)
            self.transport.close()
            return
        self.transport.write(reply)
        self.due_at = idle_until
        if self._kept:
            self._go_on()

    def _go_on(self) -> None:
        if self.owed or self.flow.write_paused or self.transport.is_closing():
            return
        data, self._kept = self._kept, b""
        self.flow.resume_reading()
        if data:
            self.data_received(data)

    def pause_writing(self) -> None:
        """64 KiB wait for the client to read: until it does, nothing more is read of it."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def overdue(self) -> None:
        if not self.owed:
            super().overdue()

    def shutdown(self) -> None:
        if self.owed:
            self._is_leaving = True
        else:
            super().shutdown()
