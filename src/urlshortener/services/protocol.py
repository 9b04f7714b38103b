"""HTTP/1.1 on a socket: uvicorn's httptools protocol, with the limits that it leaves to a proxy in front.

A request's head may take 16 KiB and 5 s, its body 10 s more and, whatever a route makes of it, 5 MiB. What breaks
HTTP is answered as problem+json, as everything is.
"""

import asyncio
import math
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from urlshortener.services.http import problem_body

_MOST_HEAD_BYTES = 16 * 1024
_MOST_REQUEST_BYTES = 5 * 1024 * 1024  # the largest body that a route takes, and what is in front of it
_HEAD_SECONDS = 5
_BODY_SECONDS = 10
_SWEEP_SECONDS = 0.5


class Sweeper:
    """Looks at all connections of a door twice a second, and tells those whose time is over.

    A timer for each request would cost more than following a link does.
    """

    def __init__(self) -> None:
        self._connections: set[LimitedProtocol] = set()
        self._next: asyncio.TimerHandle | None = None
        self.now = 0.0
        """The loop's time when it last looked: near enough to say since when a connection is idle."""

    def add(self, connection: "LimitedProtocol") -> None:
        self._connections.add(connection)
        if self._next is None:
            self._wait(connection.loop)

    def discard(self, connection: "LimitedProtocol") -> None:
        self._connections.discard(connection)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()
        self._next = loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next = None
        now = loop.time()
        for connection in [connection for connection in self._connections if connection.due_at <= now]:
            connection.overdue()
        if self._connections:
            self._wait(loop)


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    A head is counted while it arrives, and measured when it is complete. `due_at` is when the connection's patience
    ends: with a request that arrives, or with a client who asks nothing any more.

    **Upgrades are declined.** The parser drops the body of a request that asks for another protocol, as clients that
    would rather speak HTTP/2 do (Java's) in their first one. So such a request is parsed again without its `Upgrade`,
    and is the last on its connection.
    """

    def __init__(self, *args: Any, sweeper: Sweeper, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sweeper = sweeper
        self.due_at = math.inf
        self._in_head = True  # a new connection owes us a head
        self._bytes = 0  # of the request that is arriving
        self._has_more_time = False  # than a head gets: it is a body that arrives
        self._declines_upgrade = False
        self._is_over = False  # what still comes is not looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.sweeper.add(self)
        self._is_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.sweeper.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over or self.transport.is_closing():
            return
        if not self._bytes:
            self._begin()
        self._bytes += len(data)
        self._parse(data)
        if self._in_head and self._bytes > _MOST_HEAD_BYTES:
            self._refuse_large_head()
        elif self._bytes > _MOST_REQUEST_BYTES:
            self._refuse(413, "BODY_TOO_LARGE", "The request's body is larger than any that is taken here.")

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _decline(self, rest: bytes) -> None:
        if self._declines_upgrade or self.parser.get_method() == b"CONNECT":
            self.send_400_response("")
            return
        self._declines_upgrade = True
        head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._in_head = True
        self._parse(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who says nothing more still waits for the answers to what it asked; half a request is none."""
        is_half = self.cycle is not None and self.cycle.more_body
        if not is_half:
            self.shutdown()
        return not is_half

    def shutdown(self) -> None:
        """Answer what was asked, and close."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            last = self.pipeline[0][0] if self.pipeline else self.cycle
            last.keep_alive = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._bytes:  # behind another request, in one piece with it
            self._begin()
            self._bytes = 1

    def on_headers_complete(self) -> None:
        if self._is_over:
            return
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _MOST_HEAD_BYTES:
            self._refuse_large_head()
        elif not self.parser.should_upgrade():
            super().on_headers_complete()
            self._in_head = False
            if self._declines_upgrade:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._is_over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_over or self.parser.should_upgrade():
            return
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.due_at = math.inf
        else:
            self._is_idle()
        self._in_head = True
        self._bytes = 0

    def on_response_complete(self) -> None:
        """As in uvicorn, without its timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._bytes:
            self._is_idle()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "MALFORMED_REQUEST", "This is not an HTTP/1.1 request.")

    def idle_until(self) -> float:
        """When the patience with a connection ends that is owed nothing from now on: for all of a door the same."""
        return self.sweeper.now + self.timeout_keep_alive

    def _is_idle(self) -> None:
        self.due_at = self.idle_until()

    def _begin(self) -> None:
        self._has_more_time = False
        self.due_at = self.loop.time() + _HEAD_SECONDS

    def overdue(self) -> None:
        """The connection's time is over."""
        if not self._bytes:
            self.transport.close()
        elif self._in_head:
            self._refuse(408, "REQUEST_TIMEOUT", f"The request's headers did not arrive within {_HEAD_SECONDS} s.")
        elif not self._has_more_time:
            self._has_more_time = True
            self.due_at += _BODY_SECONDS
        else:
            self._refuse(408, "REQUEST_TIMEOUT", f"The request's body did not arrive within {_BODY_SECONDS} s.")

    def _refuse_large_head(self) -> None:
        self._refuse(431, "HEADERS_TOO_LARGE", "The request's headers are larger than 16 KiB.")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer and close: from here on nothing on this connection can be understood."""
        if self._is_over or self.transport.is_closing():
            return
        self._is_over = True
        self.due_at = math.inf
        if not self._in_head and self.cycle.response_complete:
            self.transport.close()  # it was answered before its body was here: this is the rest of it
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.more_body:  # what is wrong comes behind requests that are owed their answers
                self.cycle.keep_alive = False
                return
            if self.cycle.response_started or self.pipeline:
                self.transport.close()  # another answer between the bytes of one would be a lie
                return
        reason, body = problem_body(status, code, detail)
        head = [f"HTTP/1.1 {status} {reason}\r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        head.append(b"content-type: application/problem+json\r\n")
        head.append(f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode())
        self.transport.write(b"".join(head) + body)
        self.transport.close()
