"""HTTP/1.1 as it should not be spoken, and as few speak it: what is answered, and when a connection ends."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from urlshortener.services import protocol, runner
from urlshortener.services.creates import MOST_BULK_BYTES
from urlshortener.services.runner import Door, listen

_HOST = b"Host: s.example\r\n"
_SECONDS = 10  # until a test gives up


@dataclass
class App:
    """Answers with the path and the length of the body; remembers what it was asked."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    left: int = 0  # clients that closed before their request was complete
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append((scope["method"], scope["path"]))
        if scope["path"] == "/at-once":
            return await self._answer(scope, b"", send)
        await self.may_answer.wait()
        body = await self._body(receive)
        return None if body is None else await self._answer(scope, body, send)

    async def _body(self, receive: Receive) -> bytes | None:
        body, more = b"", True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return None
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        return body

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        words = f"{scope['method']} {scope['path']} {len(body)}\n".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(words))]})
        await send({"type": "http.response.body", "body": words})


class Client:
    """A connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        """Each part alone: the next when the one before was read by the other side, or nearly so."""
        for part in parts:
            self.writer.write(part)
            with contextlib.suppress(ConnectionError):
                await self.writer.drain()
            await asyncio.sleep(0.002)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        async with asyncio.timeout(_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii")
            lines = head.split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split(" ")[1]), headers, body

    async def problem(self) -> tuple[int, str]:
        """The next answer, which is a problem and the last."""
        status, headers, body = await self.answer()
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        words = json.loads(body)
        assert words["status"] == status
        assert set(words) == {"type", "title", "status", "detail", "code"}
        await self.is_closed()
        return status, words["code"]

    async def is_closed(self) -> None:
        """Closed by the other side, without another word."""
        async with asyncio.timeout(_SECONDS):
            with contextlib.suppress(ConnectionError):  # a reset, where something that was sent stays unread
                assert await self.reader.read() == b""


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def door(app: App) -> AsyncIterator[Door]:
    door = Door(listen("127.0.0.1", 0, "PORT"), app)
    async with runner._served([door]):
        yield door


@pytest.fixture
async def client(door: Door) -> AsyncIterator[Client]:
    async with connected(door) as client:
        yield client


@contextlib.asynccontextmanager
async def connected(door: Door) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(*door.socket.getsockname()))
    try:
        yield client
    finally:
        client.writer.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


# heads


async def test_an_answer_has_a_date_and_no_server(client: Client) -> None:
    await client.send(b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\n")
    status, headers, body = await client.answer()
    assert (status, body) == (200, b"GET /a 0\n")
    assert parsedate_to_datetime(headers["date"])
    assert "server" not in headers


async def test_the_first_answer_of_a_door_has_a_date_too(app: App) -> None:
    """A socket listens before anybody serves it: some have asked by then."""
    door = Door(listen("127.0.0.1", 0, "PORT"), app)
    with socket.create_connection(door.socket.getsockname()) as raw:
        raw.sendall(b"GET /a HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n")
        async with runner._served([door]):
            raw.settimeout(_SECONDS)
            answer = await asyncio.to_thread(raw.recv, 65536)
    assert b"\r\ndate: " in answer


async def test_a_refusal_has_a_date_and_no_server(client: Client) -> None:
    await client.send(b"GARBAGE\r\n\r\n")
    _, headers, _ = await client.answer()
    assert "date" in headers and "server" not in headers


async def test_a_head_of_sixteen_kibibytes_is_read(client: Client, app: App) -> None:
    start, end = b"GET /a HTTP/1.1\r\n" + _HOST, b"\r\n\r\n"
    filling = b"X: " + b"a" * (16 * 1024 - len(start) - len(end) - 3)
    await client.send(start + filling + end)
    assert (await client.answer())[0] == 200


@pytest.mark.parametrize("size", [17 * 1024, 64 * 1024, 600 * 1024])
@pytest.mark.parametrize("pieces", ["one piece", "many pieces"])
@pytest.mark.parametrize("where", ["a header", "many headers", "the path"])
async def test_a_larger_head_is_refused_and_the_application_is_not_asked(
    client: Client, app: App, size: int, pieces: str, where: str
) -> None:
    head = {
        "a header": b"GET /a HTTP/1.1\r\n" + _HOST + b"X: " + b"a" * size + b"\r\n\r\n",
        "many headers": b"GET /a HTTP/1.1\r\n" + _HOST + b"X: aaaaa\r\n" * (size // 8) + b"\r\n",
        "the path": b"GET /" + b"a" * size + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
    }[where]
    step = len(head) if pieces == "one piece" else 4000
    sending = asyncio.create_task(client.send(*(head[at : at + step] for at in range(0, len(head), step))))
    assert await client.problem() == (431, "HEADERS_TOO_LARGE")
    sending.cancel()
    assert app.asked == []


async def test_behind_a_head_that_is_too_large_nothing_is_done(client: Client, app: App) -> None:
    await client.send(b"GET /a HTTP/1.1\r\nX: " + b"a" * 17_000 + b"\r\n\r\nGET /b HTTP/1.1\r\n" + _HOST + b"\r\n")
    assert await client.problem() == (431, "HEADERS_TOO_LARGE")
    assert app.asked == []


async def test_a_large_head_behind_a_request_leaves_that_one_as_it_was(client: Client, app: App) -> None:
    first = b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\nhi"
    await client.send(first + b"POST /b HTTP/1.1\r\nX: " + b"a" * 17_000 + b"\r\nContent-Length: 4\r\n\r\njunk")
    assert (await client.answer())[2] == b"POST /a 2\n"
    await client.is_closed()
    assert app.asked == [("POST", "/a")] and app.bodies == [b"hi"]


@pytest.mark.parametrize(
    "broken",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x00\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"GET /\xff HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"GET /a?\x01 HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"GET /a HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nX y: a\r\n\r\n",
        b"GET /a HTTP/3.7\r\n\r\n",
        b"GET http://s.example HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"BREW /a HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"CONNECT s.example:443 HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"CONNECT /a HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: -1\r\n\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: gzip\r\n\r\nab",
    ],
)
async def test_what_is_no_http_is_a_400_and_the_end(client: Client, app: App, broken: bytes) -> None:
    await client.send(broken)
    assert await client.problem() == (400, "MALFORMED_REQUEST")
    assert app.bodies == []


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/%00", "/\x00"),
        (b"/%ff", "/\ufffd"),
        (b"/%zz", "/%zz"),
        (b"/%", "/%"),
        (b"/a%0a", "/a\n"),
        (b"//evil.example/", "//evil.example/"),
        (b"/a?b#c", "/a"),
        (b"http://other.example/a?b", "/a"),
    ],
)
async def test_odd_paths_reach_the_application_decoded(client: Client, app: App, target: bytes, path: str) -> None:
    await client.send(b"GET " + target + b" HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n")
    async with asyncio.timeout(_SECONDS):
        assert (await client.reader.read()).startswith(b"HTTP/1.1 200 ")
    assert app.asked == [("GET", path)]


async def test_http_1_0_is_answered_and_closed(client: Client) -> None:
    await client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (200, "close")
    await client.is_closed()


# time


@pytest.mark.parametrize("begun", [b"G", b"\r\n", b"GET /a HTTP/1.1\r\nHost: ", b"GET /a\r\n"])
async def test_a_head_that_comes_too_slowly_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """Half a line, a blank one, and HTTP/0.9, which nobody speaks any more."""
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    await client.send(begun)
    assert await client.problem() == (408, "REQUEST_TIMEOUT")


async def test_a_head_that_comes_drop_by_drop_gets_no_more_time(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    sending = asyncio.create_task(client.send(b"GET /a HTTP/1.1\r\n", *[b"X: a\r\n"] * 1000))
    assert await client.problem() == (408, "REQUEST_TIMEOUT")
    assert not sending.done()
    sending.cancel()


async def test_half_a_head_in_one_piece_with_a_request_is_timed_as_well(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    await client.send(b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\nGET /b HTTP/1.1\r\nX:")
    assert (await client.answer())[0] == 200
    assert await client.problem() == (408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize("begun", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"])
async def test_a_body_that_never_comes_is_given_up(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "_BODY_SECONDS", 0.05)
    await client.send(b"POST /a HTTP/1.1\r\n" + _HOST + begun)
    assert await client.problem() == (408, "REQUEST_TIMEOUT")
    await until(lambda: app.left == 1)


async def test_a_body_that_is_late_for_an_answer_that_was_given_ends_in_silence(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "_BODY_SECONDS", 0.05)
    await client.send(b"POST /at-once HTTP/1.1\r\n" + _HOST + b"Content-Length: 100\r\n\r\n")
    assert (await client.answer())[0] == 200
    await client.is_closed()


async def test_a_request_under_way_is_not_timed(client: Client, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "_BODY_SECONDS", 0.02)
    app.may_answer.clear()
    await client.send(b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\n", b"ab")
    await asyncio.sleep(0.1)
    app.may_answer.set()
    assert (await client.answer())[2] == b"POST /a 2\n"


async def test_a_connection_that_never_asks_and_one_that_asks_no_more_are_closed_in_silence(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner._IDLE_SECONDS == 75  # nginx keeps its side for 60 s: who closes first must be the one who asks
    monkeypatch.setattr(runner, "_IDLE_SECONDS", 0.1)
    door = Door(listen("127.0.0.1", 0, "PORT"), app)
    async with runner._served([door]), connected(door) as silent, connected(door) as once:
        await once.send(b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\n")
        assert (await once.answer())[0] == 200
        await silent.is_closed()
        await once.is_closed()


# several requests


async def test_a_connection_is_kept(client: Client) -> None:
    for _ in range(3):
        await client.send(b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\nab")
        status, headers, _ = await client.answer()
        assert (status, "connection" in headers) == (200, False)


@pytest.mark.parametrize("pieces", ["one piece", "many pieces"])
async def test_pipelined_requests_are_answered_in_their_order(client: Client, pieces: str) -> None:
    asked = b"".join(b"GET /%d HTTP/1.1\r\n" % number + _HOST + b"\r\n" for number in range(50))
    step = len(asked) if pieces == "one piece" else 97
    await client.send(*(asked[at : at + step] for at in range(0, len(asked), step)))
    for number in range(50):
        assert (await client.answer())[2] == b"GET /%d 0\n" % number


@pytest.mark.parametrize("then", [b"GARBAGE\r\n\r\n", b"\x00", b"POST /b HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
async def test_a_request_in_front_of_garbage_gets_its_answer(client: Client, app: App, then: bytes) -> None:
    await client.send(b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\nGET /b HTTP/1.1\r\n" + _HOST + b"\r\n" + then)
    assert (await client.answer())[2] == b"GET /a 0\n"
    assert (await client.answer())[2] == b"GET /b 0\n"
    await client.is_closed()


# bodies


async def test_a_chunked_body_is_put_together(client: Client, app: App) -> None:
    await client.send(
        b"POST /a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"
    )
    assert (await client.answer())[2] == b"POST /a 3\n"
    assert app.bodies == [b"abc"]


@pytest.mark.parametrize("kind", ["a body", "chunks", "trailers"])
async def test_what_goes_on_and_on_is_cut_off(client: Client, app: App, kind: str) -> None:
    head, part = {
        "a body": (b"Content-Length: 100000000\r\n\r\n", b"a" * 60_000),
        "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"ea60\r\n" + b"a" * 60_000 + b"\r\n"),
        "trailers": (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: aaaaaaaaaaaaaa\r\n" * 3000),
    }[kind]
    sending = asyncio.create_task(client.send(b"POST /a HTTP/1.1\r\n" + _HOST + head, *[part] * 1000))
    assert await client.problem() == (413, "BODY_TOO_LARGE")
    await until(lambda: app.left == 1)
    sending.cancel()
    largest = MOST_BULK_BYTES + protocol._MOST_HEAD_BYTES
    assert largest < protocol._MOST_REQUEST_BYTES  # what a route refuses, it refuses itself


@pytest.mark.parametrize("kind", ["a body", "chunks", "no chunks"])
async def test_a_body_that_goes_wrong_after_the_answer_gets_no_second_one(client: Client, kind: str) -> None:
    head, part = {
        "a body": (b"Content-Length: 100000000\r\n\r\n", b"a" * 60_000),
        "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"ea60\r\n" + b"a" * 60_000 + b"\r\n"),
        "no chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"what comes here is no chunk\r\n"),
    }[kind]
    await client.send(b"POST /at-once HTTP/1.1\r\n" + _HOST + head)
    assert (await client.answer())[0] == 200
    sending = asyncio.create_task(client.send(*[part] * 200))
    await client.is_closed()
    sending.cancel()


async def test_who_waits_to_be_told_to_go_on_is_told(client: Client) -> None:
    await client.send(b"POST /a HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.answer())[0] == 100
    await client.send(b"ab")
    assert (await client.answer())[2] == b"POST /a 2\n"


async def test_who_waits_to_be_told_to_go_on_may_get_the_answer_instead(client: Client) -> None:
    await client.send(b"POST /at-once HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.answer())[0] == 200


# upgrades


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("to", [b"h2c", b"websocket"])
async def test_an_upgrade_is_declined_and_the_request_is_done_with_its_body(
    client: Client, app: App, to: bytes, pieces: int
) -> None:
    asked = (
        b"POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + to + b"\r\nHTTP2-Settings: AAMA\r\n"
        b"Content-Length: 9\r\n" + _HOST + b"\r\nsome body"
    )
    step = len(asked) // pieces + 1
    await client.send(*(asked[at : at + step] for at in range(0, len(asked), step)))
    status, headers, body = await client.answer()
    assert (status, headers["connection"], body) == (200, "close", b"POST /a 9\n")
    await client.is_closed()
    assert app.bodies == [b"some body"]


async def test_many_upgrades_at_once_are_one_request(client: Client, app: App) -> None:
    asked = b"GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + _HOST + b"\r\n"
    await client.send(asked * 1000)
    assert (await client.answer())[0] == 200
    await client.is_closed()
    assert app.asked == [("GET", "/a")]


# clients that leave


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_told_to_the_application(door: Door, app: App) -> None:
    async with connected(door) as client:
        await client.send(b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 100\r\n\r\n{")
    await until(lambda: app.left == 1)


async def test_who_says_that_nothing_more_comes_gets_the_answers_to_what_it_asked(
    door: Door, client: Client, app: App
) -> None:
    app.may_answer.clear()
    await client.send(b"".join(b"GET /%d HTTP/1.1\r\n" % number + _HOST + b"\r\n" for number in range(3)))
    client.writer.write_eof()
    async with connected(door) as later:  # when this one is answered, that was heard
        await later.send(b"GET /at-once HTTP/1.1\r\n" + _HOST + b"\r\n")
        assert (await later.answer())[0] == 200
    app.may_answer.set()
    answers = [await client.answer() for _ in range(3)]
    assert [body for _, _, body in answers] == [b"GET /0 0\n", b"GET /1 0\n", b"GET /2 0\n"]
    assert ["connection" in headers for _, headers, _ in answers] == [False, False, True]
    await client.is_closed()


@pytest.mark.parametrize("begun", [b"", b"GET /a HT", b"POST /a HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"])
async def test_who_says_that_nothing_more_comes_and_has_not_asked_is_let_go(client: Client, begun: bytes) -> None:
    await client.send(begun)
    client.writer.write_eof()
    await client.is_closed()


@pytest.mark.parametrize("begun", [b"", b"GET /a HT", b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\n"])
async def test_a_reset_leaves_nothing_behind(
    door: Door, app: App, begun: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    raw = await asyncio.to_thread(socket.create_connection, door.socket.getsockname())
    raw.sendall(begun)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    async with connected(door) as client:
        await client.send(b"GET /b HTTP/1.1\r\n" + _HOST + b"\r\n")
        assert (await client.answer())[0] == 200
    assert caplog.text == ""


async def test_a_closed_door_leaves_no_connection_and_no_task(app: App) -> None:
    tasks = asyncio.all_tasks()
    door = Door(listen("127.0.0.1", 0, "PORT"), app)
    async with connected(door) as idle, connected(door) as half:
        async with runner._served([door]):
            await half.send(b"GET /a HT")
            await idle.send(b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\n")
            assert (await idle.answer())[0] == 200
        await idle.is_closed()
        await half.is_closed()
    assert asyncio.all_tasks() == tasks


async def test_a_request_under_way_is_finished_before_the_door_is_closed(app: App) -> None:
    door = Door(listen("127.0.0.1", 0, "PORT"), app)
    async with connected(door) as client:
        async with runner._served([door]):
            app.may_answer.clear()
            await client.send(b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\n")
            await until(lambda: app.asked)
            asyncio.get_running_loop().call_later(0.2, app.may_answer.set)
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        await client.is_closed()
