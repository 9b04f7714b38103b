"""A request asked twice: of a door that knows the fast way, and of one that does not."""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from uvicorn import Config
from uvicorn.server import ServerState

from tests.backends.kept_spans import spans_kept
from tests.backends.otlp import ReceivedSpan
from tests.services.conftest import Clock
from urlshortener.events.segment import Frame
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links.cache import Cache
from urlshortener.links.link import Destination, Link
from urlshortener.services.caller import Proxies
from urlshortener.services.fast_redirect import FastProtocol, FastRedirects
from urlshortener.services.http import Readiness
from urlshortener.services.protocol import LimitedProtocol, Sweeper
from urlshortener.services.shortener import shortener_app
from urlshortener.services.traced import Traced, Tracing
from urlshortener.telemetry import FAST_REDIRECTS, Sampling

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8:10::/48"))
PROXY, STRANGER = "10.0.0.1", "203.0.113.7"
CLOCK = Clock()
AT = CLOCK.at


def a_link(code: str, **more: Any) -> Link:
    return Link(UUID(int=0), code, f"https://example.com/{code}?a=b%20c#d", AT, AT, **more)


LINKS = [
    a_link("cat"),
    a_link("A-_9"),
    a_link("x" * 64),
    a_link("soon", expires_at=AT + timedelta(microseconds=1)),
    a_link("past", expires_at=AT),
    a_link("off", enabled=False),
    a_link("gone", deleted_at=AT),
]
_NUMBERS = re.compile(rb'"event_id":"[^"]*",|,"seq":[0-9]+')
COLD = {"cold": Destination("https://cold.example/")}


class KeptLinks:
    """A directory of which some links are in memory, and one is found when somebody asks for it."""

    def __init__(self) -> None:
        self._cache = Cache(1 << 20, lambda: 0.0)
        self._cache.connected(None)
        with self._cache.reading() as reading:
            for link in LINKS:
                self._cache.keep(link, reading, from_primary=True)
        self.known = self._cache.known
        self.live_target = self._cache.live_target

    async def follow(self, code: str) -> Destination | None:
        return self.known(code) or COLD.get(code)


class HeardSpool(Spool):
    """Whose disk is a list, and whose epoch and event ids are always the same."""

    def __init__(self, folder: Path, *, strict: bool) -> None:
        super().__init__(folder, 1 << 30, AT.timestamp, strict=strict)
        self.epoch = "epoch"
        self._event_id._chance = "7abc-8def-0123"
        self.events: list[bytes] = []

    def _write(self, frames: list[Frame]) -> bool:
        self.events += [frame.payload for frame in frames]
        if self._confirmations is not None:
            for turn in list(self._confirmations._waiting):
                self._confirmations._give_up(turn)  # as if the broker had not answered for seconds
        return True


class Socket(asyncio.Transport):
    """A connection from there: what is written to it, and whether it is read."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 50000), "sockname": ("127.0.0.1", 8080)})
        self.written = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: Any) -> None:
        assert not self.is_closed, "nobody writes to what is closed"
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Told(NamedTuple):
    """All that comes of what was said on one connection."""

    answers: bytes
    was_closed: bool
    events: bytes
    spans: list[str]


class Side:
    """One of the two ways, over parts of its own. `ratio` is the share that is traced; None: nobody traces."""

    def __init__(self, folder: Path, *, is_fast: bool, strict: bool = False, ratio: float | None = None) -> None:
        self.spool = HeardSpool(folder, strict=strict)
        directory: Any = KeptLinks()
        visitors, proxies = Visitors("a-secret-of-sixteen", False), Proxies(PROXIES)
        tracing = None if ratio is None else Tracing(Sampling(ratio))
        app = shortener_app(
            directory, self.spool, visitors, Readiness(), now=CLOCK, trusted_proxies=PROXIES, referrer_policy="origin"
        )
        if tracing is not None:
            app = Traced(app, proxies, tracing)
        self._config = Config(app, interface="asgi3", log_config=None, lifespan="off", proxy_headers=False)
        self._config.load()
        self._protocol: Callable[..., LimitedProtocol] = LimitedProtocol
        if is_fast:
            self.redirects = FastRedirects(
                directory,
                self.spool,
                visitors,
                proxies,
                referrer_policy="origin",
                request_id_header="X-Edge-Request-Id",
                service_name="shortener-service",
                now=CLOCK,
                tracing=tracing,
            )
            self._protocol = self.redirects.connection

    async def says(self, peer: str, pieces: Sequence[bytes]) -> Told:
        """On one connection, and all of it answered."""
        state = self._begun()
        connection, socket = self._connected(state, peer)
        with spans_kept() as spans:
            for piece in pieces:
                if socket.is_closed:
                    break
                connection.data_received(piece)
                await self._settled(connection, state)
            was_closed = socket.is_closed
            connection.connection_lost(None)
        return _with_names(socket.written, was_closed, b",".join(self.spool.events), spans.sent)

    async def is_told(self, pieces: Sequence[tuple[str, bytes]]) -> tuple[list[bytes], list[bytes]]:
        """All in one turn of the event loop, each on a connection of its own: the answers, and the events without their
        numbers, in no order."""
        state = self._begun()
        connected = [self._connected(state, peer) for peer, _ in pieces]
        for (connection, _), (_, piece) in zip(connected, pieces, strict=True):
            connection.data_received(piece)
        for connection, _ in connected:
            await self._settled(connection, state)
            connection.connection_lost(None)
        events = _NUMBERS.sub(b"", b"".join(b",%b" % event for event in self.spool.events)).split(b",{")
        return [socket.written for _, socket in connected], sorted(events)

    def is_told_at_once(self, pieces: Sequence[bytes], *, is_shut_down: bool = False) -> tuple[bytes, bool]:
        """In one turn, on one connection, which may be asked to end right then: the answers, and whether it ended."""

        async def told() -> tuple[bytes, bool]:
            state = self._begun()
            connection, socket = self._connected(state, STRANGER)
            for piece in pieces:
                connection.data_received(piece)
            if is_shut_down:
                connection.shutdown()
            await self._settled(connection, state)
            return socket.written, socket.is_closed

        return asyncio.run(told())

    def _begun(self) -> ServerState:
        self.spool.events.clear()
        self.spool._next_seq = 0
        state = ServerState()
        state.default_headers = [(b"date", b"Mon, 23 Nov 2026 10:00:00 GMT")]
        return state

    def _connected(self, state: ServerState, peer: str) -> tuple[LimitedProtocol, Socket]:
        socket = Socket(peer)
        loop = asyncio.get_running_loop()
        connection = self._protocol(
            config=self._config, server_state=state, app_state={}, _loop=loop, sweeper=Sweeper()
        )
        connection.connection_made(socket)
        return connection, socket

    async def _settled(self, connection: LimitedProtocol, state: ServerState) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        while state.tasks or (isinstance(connection, FastProtocol) and connection.owed):
            await asyncio.sleep(0)


def _with_names(answers: bytes, was_closed: bool, events: bytes, spans: Sequence[ReceivedSpan]) -> Told:
    """With names instead of the ids that chance gave: each request's by its place, those below it by their own name."""
    names: dict[str, str] = {}
    places = count()
    for span in sorted(spans, key=lambda span: span.span.start_time_unix_nano):
        assert 0 < span.span.start_time_unix_nano <= span.span.end_time_unix_nano
        name = f"{names[span.parent]}, {span.name}" if span.parent in names else f"request {next(places)}"
        names[span.id] = name
        if not span.parent:
            names[span.trace] = f"trace of {name}"
    told = sorted(_said_by(span) for span in spans)
    for hexadecimal, name in names.items():
        told = [line.replace(hexadecimal, name) for line in told]
        events = events.replace(hexadecimal.encode(), name.encode())
    return Told(answers, was_closed, events, sorted(told))


def _said_by(received: ReceivedSpan) -> str:
    span = received.span
    ids = f"{received.trace} {received.id} {span.trace_state}; {received.parent} {span.flags:#x}"
    kind, status = Span.SpanKind.Name(span.kind), Status.StatusCode.Name(span.status.code)
    attributes = sorted(received.attributes.items())
    return f"{ids}; {span.name} {kind} {status} {span.status.message} {attributes} {span.events} {span.links}"


class Both:
    def __init__(self, folder: Path, *, strict: bool = False, ratio: float | None = None) -> None:
        self.ordinary = Side(folder / "ordinary", is_fast=False, strict=strict, ratio=ratio)
        self.fast = Side(folder / "fast", is_fast=True, strict=strict, ratio=ratio)

    def say(self, peer: str, *pieces: bytes) -> Told:
        """What both of them say."""
        ordinary, fast = asyncio.run(self._say(peer, pieces))
        assert fast == ordinary
        return fast

    def tell(self, pieces: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """What both of them answer to all of these at once."""

        async def told() -> list[tuple[list[bytes], list[bytes]]]:
            return [await side.is_told(pieces) for side in (self.ordinary, self.fast)]

        ordinary, fast = asyncio.run(told())
        assert fast == ordinary
        return fast[0]

    async def _say(self, peer: str, pieces: Sequence[bytes]) -> list[Told]:
        return [await side.says(peer, pieces) for side in (self.ordinary, self.fast)]


def fast_ones(ask: Callable[[], Any]) -> float:
    before: float = FAST_REDIRECTS._value.get()
    ask()
    after: float = FAST_REDIRECTS._value.get()
    return after - before


BROWSER = (
    b"Host: s.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/142.0.0.0\r\n"
    b'Accept: text/html,*/*;q=0.8\r\nsec-ch-ua: "Chromium";v="142"\r\nAccept-Language: de,en;q=0.5\r\n'
    b"Referer: https://news.example/today\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Site: cross-site\r\n"
)
INGRESS = (
    b"X-Request-ID: 5f3c2f9b1b1f4e0f8a5d1d7e2f3b4c5d\r\nX-Real-IP: 198.51.100.23\r\nX-Forwarded-For: 198.51.100.23\r\n"
    b"X-Forwarded-Host: s.example\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\nX-Scheme: https\r\n"
    b"X-Edge-Request-Id: 0123456789abcdef0123456789abcdef\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n"
)


def asking(code: str, headers: bytes = BROWSER) -> bytes:
    return b"GET /%b HTTP/1.1\r\n%b\r\n" % (code.encode(), headers)
