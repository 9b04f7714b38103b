"""HTTP/1.1 on a socket: uvicorn's httptools protocol, with the limits that it leaves to a proxy in front.

A request's head may take 16 KiB and 5 s, its body 10 s more and, whatever a route makes of it, 5 MiB. What breaks
HTTP is answered as problem+json, as everything is.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from urlshortener.services.http import problem_body

_MOST_HEAD_BYTES = 16 * 1024
_MOST_REQUEST_BYTES = 5 * 1024 * 1024  # the largest body that a route takes, and what is in front of it
_HEAD_SECONDS = 5
_BODY_SECONDS = 10


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    A head is counted while it arrives, and measured when it is complete. One timer runs from a request's first byte to
    its last; it is set once for most requests, so that limits cost next to nothing.

    **Upgrades are declined.** The parser drops the body of a request that asks for another protocol, as clients that
    would rather speak HTTP/2 do (Java's) in their first one. So such a request is parsed again without its `Upgrade`,
    and is the last on its connection.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True  # a new connection owes us a head
        self._bytes = 0  # of the request that is arriving
        self._timer: asyncio.TimerHandle | None = None
        self._declines_upgrade = False
        self._is_over = False  # what still comes is not looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.timeout_keep_alive, transport.close)  # if it never asks for anything

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
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
        self._unset_keepalive_if_required()
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

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._bytes:  # behind another request, in one piece with it
            self._begin()
            self._bytes = 1

    def on_headers_complete(self) -> None:
        if self._is_over:
            return
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _MOST_HEAD_BYTES:
            self._refuse_large_head()
        elif not self.parser.should_upgrade():
            super().on_headers_complete()
            if self._declines_upgrade:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._is_over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_over or self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._stop_timer()
        self._in_head = True
        self._bytes = 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "MALFORMED_REQUEST", "This is not an HTTP/1.1 request.")

    def _begin(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(_HEAD_SECONDS, self._head_is_due)

    def _head_is_due(self) -> None:
        if self._in_head:
            self._refuse(408, "REQUEST_TIMEOUT", f"The request's headers did not arrive within {_HEAD_SECONDS} s.")
        else:
            self._timer = self.loop.call_later(_BODY_SECONDS, self._body_is_due)

    def _body_is_due(self) -> None:
        if self.cycle.response_complete:
            self.transport.close()  # it was answered before, and the rest of it never came
        else:
            self._refuse(408, "REQUEST_TIMEOUT", f"The request's body did not arrive within {_BODY_SECONDS} s.")

    def _refuse_large_head(self) -> None:
        self._refuse(431, "HEADERS_TOO_LARGE", "The request's headers are larger than 16 KiB.")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer and close: from here on nothing on this connection can be understood."""
        if self._is_over or self.transport.is_closing():
            return
        self._is_over = True
        self._stop_timer()
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
