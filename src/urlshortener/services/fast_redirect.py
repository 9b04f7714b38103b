"""The short way for a known link: from the bytes of a request to the bytes of its redirect, without any framework.

**The idea.** Following a link is a lookup and a header, and nearly every request that comes is a plain one: `GET`, a
code, the headers that browsers and proxies send. So each connection looks at what arrives before the HTTP parser does.
Whole heads that services/plain_head.py understands to the last byte, for links that are in memory, are answered here.
**Everything else goes the ordinary way with its bytes untouched**: half a head, another method or version, a body, an
upgrade, a code that is not known, a link that is over, a request that is to be logged. Whatever is taken here, the
ordinary way would answer with the very same bytes, the same event and the same spans:
tests/services/test_fast_redirect.py compares the two on whatever hypothesis makes up.

**A turn.** All that arrives in one turn of the event loop is written to the spool with one `write`, at the beginning of
the next. The replies leave together right after it, or with SPOOL_MODE=strict when the broker has them.

**Order.** While an answer of a connection is owed, whichever way it takes, no other way is taken: what arrives while
replies wait for the spool is kept, and reading pauses; what arrives while the ordinary way is at work goes there.
"""

import asyncio
import time
from collections.abc import Callable
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
from urlshortener.services.plain_head import PlainHead
from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.traced import SLOW_SECONDS, Tracing

_REMEMBERED_CALLERS = 16_384
_REMEMBERED_HEADERS = 4_096
_END_OF_HEAD = b"\r\n\r\n"


class Caller(NamedTuple):
    """Who asks: the address in full, for the visitor's hash, and what an event may say of it, as JSON."""

    address: bytes
    shown: bytes


class Said(NamedTuple):
    """What a header said, as an event has it and as the visitor's hash has it."""

    json: bytes
    text: bytes


class _Turn(NamedTuple):
    """What all redirects of one turn of the event loop share."""

    at: datetime
    microseconds: int
    began: float
    began_ns: int


# Who waits for which target, and what he sent: as it was understood, and as it came.
_Asked: TypeAlias = "tuple[FastProtocol, bytes, Caller, PlainHead, bytes]"


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
        self._caller = lru_cache(_REMEMBERED_CALLERS)(self._find_caller)
        self._turn: _Turn | None = None
        self._asked: list[_Asked] = []
        self.of_proxies = plain_head.reader(request_id_header)
        self.of_anybody = plain_head.reader(None)

    def connection(self, *args: Any, **kwargs: Any) -> "FastProtocol":
        """A protocol for a new connection, as the runner wants one."""
        return FastProtocol(*args, redirects=self, **kwargs)

    def caller(self, peer: str | None) -> Caller | None:
        """Who asks on a connection from there; None if that is a proxy, which tells it anew with each request."""
        return None if self._proxies.are(peer) else self._caller(peer, b"")

    def _find_caller(self, peer: str | None, forwarded_for: bytes) -> Caller:
        address = self._proxies.address(peer, forwarded_for.decode("latin-1"))
        return Caller((address or "").encode(), msgspec.json.encode(self._visitors.address(address)))

    def take(self, connection: "FastProtocol", data: bytes) -> bool:
        """Take plain requests for known links, if they are all there is. False: all has to go the ordinary way."""
        heads = connection.read(data)
        if not heads:
            return False
        turn = self._turn or self._begin_turn()
        asked: list[_Asked] = []
        texts = [data] if len(heads) == 1 else data.split(_END_OF_HEAD)
        for head, text in zip(heads, texts, strict=False):
            code, _, _, forwarded_for, _, _ = head
            target = self._live_target(code, turn.microseconds)
            if target is None or (self._is_logged is not None and self._is_logged()):
                return False
            caller = connection.caller or self._caller(connection.peer, forwarded_for)
            asked.append((connection, target, caller, head, text))
        self._asked += asked
        connection.owed = len(asked)
        return True

    def _begin_turn(self) -> _Turn:
        at = self._now()
        self._turn = _Turn(at, microseconds(at), time.perf_counter(), time.time_ns())
        asyncio.get_running_loop().call_soon(self._end_turn)
        return self._turn

    def _end_turn(self) -> None:
        """Have the accesses of this turn in the spool, and their replies wait for it."""
        turn, asked = self._turn, self._asked
        self._turn, self._asked = None, []
        if turn is None or not asked:
            return
        keyed = self._visitors.keyed(turn.at)
        accesses: list[Plain] = []
        decided: list[int] = []  # places of those whose proxy says whether they are traced
        for _, _, (address, shown), (code, agent, referer, _, traceparent, request_id), _ in asked:
            if traceparent:
                decided.append(len(accesses))
            user_agent, text = _said(agent)
            visitor = keyed.copy()
            visitor.update(b"%b\0%b" % (address, text))
            more = b',"request_id":"%b"' % request_id if request_id else b""
            accesses.append((code, user_agent, shown, _said(referer)[0], visitor.hexdigest().encode(), more))
        traced = None if self._traces is None else self._traces.begun(asked, decided, turn.began_ns)
        if traced is not None:
            traced.spooling(accesses)
        written = self._spool.append_plain(turn.at, accesses)
        if written.done():
            self._release(asked, traced, turn, written.exception())
        else:
            written.add_done_callback(lambda written: self._release(asked, traced, turn, written.exception()))

    def _release(
        self, asked: list[_Asked], traced: TracedTurn | None, turn: _Turn, error: BaseException | None
    ) -> None:
        """The accesses are in the spool: their visitors may leave. Only a strict spool may say that they must not."""
        if traced is not None:
            traced.spooled(error)
        start, end = self._replies.around_target(asked[0][0].server_state.default_headers)
        for connection, target, _, _, text in asked:
            if error is None:
                connection.leave(b"".join((start, target, end)))
            else:
                connection.leave(self._replies.refusal(text, error))
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
        self._take = redirects.take
        self._kept = b""  # arrived while replies wait
        self._is_leaving = False
        self.owed = 0  # replies that wait
        self.peer: str | None = None
        self.caller: Caller | None = None
        self.read = redirects.of_anybody

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else None
        self.caller = self._redirects.caller(self.peer)
        if self.caller is None:
            self.read = self._redirects.of_proxies

    def connection_lost(self, exc: Exception | None) -> None:
        self._kept = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.owed or self.flow.write_paused:
            self._kept += data
            self.flow.pause_reading()
        elif self._bytes or (self.cycle is not None and not self.cycle.response_complete):
            super().data_received(data)  # the ordinary way is not done with what came before
        elif not self._take(self, data):
            super().data_received(data)

    def leave(self, reply: bytes) -> None:
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
        self._is_idle()
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
            self._kept = b""
        else:
            super().shutdown()
