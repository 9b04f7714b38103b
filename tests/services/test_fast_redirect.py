"""The fast way and the ordinary way are one: the same bytes, the same events, whatever a client sends."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

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
from urlshortener.telemetry import FAST_REDIRECTS

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
COLD = {"cold": Destination("https://cold.example/")}


class KeptLinks:
    """A directory of which some links are in memory, and one is found when somebody asks for it."""

    def __init__(self) -> None:
        self._cache = Cache(1 << 20, lambda: 0.0)
        self._cache.connected()
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


class Side:
    """One of the two ways, over parts of its own."""

    def __init__(self, folder: Path, *, is_fast: bool, strict: bool) -> None:
        self.spool = HeardSpool(folder, strict=strict)
        directory: Any = KeptLinks()
        visitors = Visitors("a-secret-of-sixteen", False)
        app = shortener_app(
            directory, self.spool, visitors, Readiness(), now=CLOCK, trusted_proxies=PROXIES, referrer_policy="origin"
        )
        self._config = Config(app, interface="asgi3", log_config=None, lifespan="off", proxy_headers=False)
        self._config.load()
        self._protocol: Callable[..., LimitedProtocol] = LimitedProtocol
        if is_fast:
            self.redirects = FastRedirects(
                directory,
                self.spool,
                visitors,
                Proxies(PROXIES),
                referrer_policy="origin",
                request_id_header="X-Edge-Request-Id",
                service_name="shortener-service",
                now=CLOCK,
            )
            self._protocol = self.redirects.connection

    async def says(self, peer: str, pieces: Sequence[bytes]) -> tuple[bytes, bool, bytes]:
        """All that is answered on one connection, whether it was closed, and the events that were written."""
        self.spool.events.clear()
        self.spool._next_seq = 0
        state, socket = ServerState(), Socket(peer)
        state.default_headers = [(b"date", b"Mon, 23 Nov 2026 10:00:00 GMT")]
        connection = self._protocol(
            config=self._config, server_state=state, app_state={}, _loop=asyncio.get_running_loop(), sweeper=Sweeper()
        )
        connection.connection_made(socket)
        for piece in pieces:
            if socket.is_closed:
                break
            connection.data_received(piece)
            await self._settled(connection, state)
        was_closed = socket.is_closed
        connection.connection_lost(None)
        return socket.written, was_closed, b",".join(self.spool.events)

    async def _settled(self, connection: LimitedProtocol, state: ServerState) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        while state.tasks or (isinstance(connection, FastProtocol) and connection.owed):
            await asyncio.sleep(0)


class Both:
    def __init__(self, folder: Path, *, strict: bool = False) -> None:
        self.ordinary = Side(folder / "ordinary", is_fast=False, strict=strict)
        self.fast = Side(folder / "fast", is_fast=True, strict=strict)

    def say(self, peer: str, *pieces: bytes) -> tuple[bytes, bool, bytes]:
        """What both of them say."""
        ordinary, fast = asyncio.run(self._say(peer, pieces))
        assert fast == ordinary
        return fast

    async def _say(self, peer: str, pieces: Sequence[bytes]) -> list[tuple[bytes, bool, bytes]]:
        return [await side.says(peer, pieces) for side in (self.ordinary, self.fast)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("spools"))


def fast_ones(ask: Callable[[], Any]) -> float:
    before: float = FAST_REDIRECTS._value.get()
    ask()
    after: float = FAST_REDIRECTS._value.get()
    return after - before


# what goes the fast way

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


@pytest.mark.parametrize(
    ("peer", "asked"),
    [
        (STRANGER, asking("cat")),
        (STRANGER, asking("cat", BROWSER + INGRESS)),
        (PROXY, asking("cat", BROWSER + INGRESS)),
        (PROXY, asking("cat", INGRESS.lower())),
        (PROXY, asking("cat", b"X-Forwarded-For: 6.6.6.6, 2001:db8:1::7 , 10.1.2.3\r\n")),
        (PROXY, asking("cat", b"X-Forwarded-For: unknown\r\n")),
        ("2001:db8:10::1", asking("cat", INGRESS)),
        (STRANGER, asking("cat", b"")),
        (STRANGER, asking("cat?utm=1&b=/%20?", b"Host: s.example\r\nConnection: keep-alive\r\n")),
        (STRANGER, asking("A-_9", b'user-agent: \xff\xc3\xa9 "quoted" \\ \t end\r\nREFERER: \xe2\x82\xac\r\n')),
        (STRANGER, asking("x" * 64)),
        (STRANGER, asking("soon")),
    ],
)
def test_a_plain_request_for_a_known_link_takes_the_fast_way(both: Both, peer: str, asked: bytes) -> None:
    assert fast_ones(lambda: both.say(peer, asked)) == 1
    answer, is_closed, event = both.say(peer, asked)
    assert answer.startswith(b"HTTP/1.1 307 ") and not is_closed and event


def test_what_a_proxy_tells_is_in_the_event(both: Both) -> None:
    _, _, event = both.say(PROXY, asking("cat", BROWSER + INGRESS))
    assert b'"ip_address":"198.51.100.0"' in event
    assert b'"request_id":"0123456789abcdef0123456789abcdef"' in event
    _, _, event = both.say(STRANGER, asking("cat", BROWSER + INGRESS))
    assert b'"ip_address":"203.0.113.0"' in event and b"request_id" not in event


def test_plain_requests_in_one_piece_take_it_together(both: Both) -> None:
    assert fast_ones(lambda: both.say(STRANGER, asking("cat") * 3, asking("soon"))) == 4


@pytest.mark.parametrize(
    "asked",
    [
        asking("cat").replace(b"GET", b"HEAD"),
        asking("cat").replace(b"GET", b"get"),
        asking("cat").replace(b"HTTP/1.1", b"HTTP/1.0"),
        asking("cat").replace(b"HTTP/1.1", b"http/1.1"),
        asking("cat", b"Connection: close\r\n"),
        asking("cat", b"Content-Length: 2\r\n") + b"ab",
        asking("cat", b"Content-Length: 0\r\n"),
        asking("cat", b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        asking("cat", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        asking("cat", b"Expect: 100-continue\r\n"),
        asking("cat", b"User-Agent: a\r\nuser-agent: b\r\n"),
        asking("cat", b"Referer:\r\n"),
        asking("cat", b"Referer:   a\r\n"),
        asking("cat", b"Referer: a \r\n"),
        asking("cat", b"User-Agent: " + b"a" * 513 + b"\r\n"),
        asking("cat", b"X: " + b"a" * 17_000 + b"\r\n"),
        asking("cat", b"X: a\nContent-Length: 5\r\n"),
        asking("cat", b"X: a\r\r\n"),
        asking("cat", b"X: a\x00b\r\n"),
        asking("cat", b"X: a\r\n folded\r\n"),
        asking("cat", b"X : a\r\n"),
        asking("cat", b": a\r\n"),
        asking("cat", b"X\r\n"),
        asking("cat").replace(b"\r\n", b"\n"),
        b"GET /cat HTTP/1.1\n\r\n\r\n\r",
        asking("cat") + b"GARBAGE\r\n\r\n",
        asking("cat") + b"GET /c",
        asking("cat") + asking("cold"),
        b"\r\n" + asking("cat"),
        asking("cat#x"),
        asking("cat%20"),
        asking("/cat"),
        asking("x" * 65),
        asking("http://s.example/cat"),
        asking("cold"),
        asking("unknown"),
        asking("past"),
        asking("off"),
        asking("gone"),
        asking("health"),
        asking("docs"),
    ],
)
@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_all_else_takes_the_ordinary_way(both: Both, peer: str, asked: bytes) -> None:
    assert fast_ones(lambda: both.say(peer, asked)) == 0


@pytest.mark.parametrize(
    "headers",
    [
        INGRESS + b"x-forwarded-for: 1.2.3.4\r\n",
        INGRESS + b"x-edge-request-id: two\r\n",
        b"X-Edge-Request-Id: a,b\r\n",
        b'X-Edge-Request-Id: a"b\r\n',
        b"traceparent: rubbish\r\n",
    ],
)
def test_what_a_proxy_may_say_once_and_in_order_goes_the_ordinary_way_otherwise(both: Both, headers: bytes) -> None:
    assert fast_ones(lambda: both.say(PROXY, asking("cat", headers))) == 0
    assert fast_ones(lambda: both.say(STRANGER, asking("cat", headers))) == 1


@pytest.mark.parametrize("accept", [b"*/*", b"text/html", b"application/json;q=1, text/html;q=0.5"])
def test_who_may_not_leave_because_no_broker_has_the_access_is_told_so_in_the_same_words(
    tmp_path: Path, accept: bytes
) -> None:
    strict = Both(tmp_path, strict=True)
    answer, is_closed, event = strict.say(STRANGER, asking("cat", b"Accept: " + accept + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in answer and event and not is_closed


def test_a_request_that_is_watched_takes_the_ordinary_way(tmp_path: Path) -> None:
    asked: list[bytes] = []
    side = Side(tmp_path, is_fast=True, strict=False)
    side.redirects._watched = lambda traceparent: asked.append(traceparent) or len(asked) > 1  # type: ignore[func-returns-value]
    counted = fast_ones(lambda: asyncio.run(side.says(PROXY, [asking("cat", INGRESS), asking("cat")])))
    assert counted == 1
    assert asked == [b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", b""]


def test_a_head_in_pieces_and_what_comes_after_it(both: Both) -> None:
    head = asking("cat")
    for cut in (1, 20, len(head) - 1):
        assert fast_ones(lambda at=cut: both.say(STRANGER, head[:at], head[at:], head)) == 1  # type: ignore[misc]


# hypothesis

_CODES = st.sampled_from(
    ["cat"] * 8 + ["A-_9", "soon", "past", "off", "gone", "cold", "unknown", "api", "cat/", "c%61t"]
)
_TARGETS = st.builds(
    lambda code, query: code + query, _CODES, st.sampled_from(["", "", "?q=1", "?", "?a b", "#f", "??"])
)
_WORDS = st.text('abcXYZ019 -_,;:/."\\\t\x00\r\né\xff', max_size=12).map(lambda text: text.encode("latin-1"))
_NAMES = st.sampled_from(
    [
        b"Host",
        b"Accept",
        b"user-agent",
        b"User-Agent",
        b"REFERER",
        b"X-Forwarded-For",
        b"x-edge-request-id",
        b"X y",
        b"",
    ]
)
_LINES = st.one_of(
    st.sampled_from([line + b"\r\n" for line in (BROWSER + INGRESS).split(b"\r\n") if line]),
    st.sampled_from(
        [
            b"Connection: keep-alive\r\n",
            b"connection: Keep-Alive\r\n",
            b"Connection: close\r\n",
            b"Connection: upgrade\r\nUpgrade: h2c\r\n",
            b"Proxy-Connection: close\r\n",
            b"Content-Length: 0\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"X-Forwarded-For: 1.2.3.4, 10.9.9.9\r\n",
            b"X-Forwarded-For: 2001:db8::1\r\n",
            b"X-Edge-Request-Id: an id\r\n",
        ]
    ),
    st.builds(
        lambda name, blank, value: name + b":" + blank + value + b"\r\n",
        _NAMES,
        st.sampled_from([b" ", b"", b"  "]),
        _WORDS,
    ),
)
_HEADS = st.builds(
    lambda method, target, version, lines: b"%b /%b %b\r\n%b\r\n" % (method, target.encode(), version, b"".join(lines)),
    st.sampled_from([b"GET"] * 8 + [b"HEAD", b"POST", b"get"]),
    _TARGETS,
    st.sampled_from([b"HTTP/1.1"] * 10 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTp/1.1"]),
    st.lists(_LINES, max_size=8),
)
_SPOILT = st.tuples(
    st.integers(0, 400),
    st.integers(0, 3),
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b"\x7f", b"a", b""]),
)


def spoilt(data: bytes, spoils: list[tuple[int, int, bytes]]) -> bytes:
    """With some bytes in the middle replaced by others."""
    for at, length, instead in spoils:
        data = data[:at] + instead + data[at + length :]
    return data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [piece for start, end in pairwise(edges) if (piece := data[start:end])]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    peer=st.sampled_from([PROXY, STRANGER]),
    heads=st.lists(_HEADS, min_size=1, max_size=4),
    spoils=st.lists(_SPOILT, max_size=2) | st.just([]),
    places=st.lists(st.integers(0, 1500), max_size=3) | st.just([]),
)
def test_whatever_comes_both_ways_answer_the_same_bytes_and_write_the_same_events(
    both: Both, peer: str, heads: list[bytes], spoils: list[tuple[int, int, bytes]], places: list[int]
) -> None:
    both.say(peer, *cut(spoilt(b"".join(heads), spoils), places))
