"""The fast way on a raw socket: when replies leave, in which order, and when a connection ends."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

import pytest

from tests.services.conftest import Clock, ToldSpool
from tests.services.test_protocol import App, Client, connected, until
from tests.services.two_ways import PROXIES, KeptLinks, asking
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.services import protocol, runner
from urlshortener.services.caller import Proxies
from urlshortener.services.fast_redirect import FastProtocol, FastRedirects
from urlshortener.services.runner import Door, listen

CAT = asking("cat")
SLOW = b"GET /slow HTTP/1.1\r\nHost: s.example\r\n\r\n"


def fast_door(app: App, spool: Any, made: list[FastProtocol] | None = None) -> Door:
    redirects = FastRedirects(
        cast(Any, KeptLinks()),
        spool,
        Visitors("a-secret-of-sixteen", False),
        Proxies(PROXIES),
        referrer_policy="",
        request_id_header="X-Edge-Request-Id",
        service_name="shortener-service",
        now=Clock(),
    )

    def connection(*args: Any, **kwargs: Any) -> FastProtocol:
        new = redirects.connection(*args, **kwargs)
        if made is not None:
            made.append(new)
        return new

    return Door(listen("127.0.0.1", 0, "PORT"), app, connection)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def made() -> list[FastProtocol]:
    return []


@pytest.fixture
async def door(app: App, spool: ToldSpool, made: list[FastProtocol]) -> AsyncIterator[Door]:
    door = fast_door(app, spool, made)
    async with runner._served([door]):
        yield door
        for future in spool.futures:
            if not future.done():
                future.set_result(None)


@pytest.fixture
async def client(door: Door) -> AsyncIterator[Client]:
    async with connected(door) as client:
        yield client


def written(spool: ToldSpool) -> Iterator[asyncio.Future[None]]:
    """The futures of writes that are not done yet."""
    return (future for future in spool.futures if not future.done())


async def silence(client: Client) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            raise AssertionError(await client.reader.readexactly(1))


async def test_a_reply_leaves_only_after_the_spool_has_the_access(client: Client, spool: ToldSpool) -> None:
    spool.is_slow = True
    await client.send(CAT)
    await until(lambda: spool.futures)
    await silence(client)
    spool.futures[0].set_result(None)
    status, headers, _ = await client.answer()
    assert (status, headers["location"]) == (307, "https://example.com/cat?a=b%20c#d")
    assert "date" in headers and "server" not in headers


async def test_the_date_of_replies_moves_on(client: Client) -> None:
    async def told() -> int:
        await client.send(CAT)
        _, headers, _ = await client.answer()
        return int(parsedate_to_datetime(headers["date"]).timestamp())

    first = at = await told()
    async with asyncio.timeout(10):
        while at == first:
            at = await told()
    assert first < at <= time.time()


@pytest.mark.parametrize(("visitors", "fewest_writes"), [(20, 1), (300, 3)])
async def test_all_accesses_of_a_turn_are_written_at_once_and_their_replies_leave_together(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visitors: int, fewest_writes: int
) -> None:
    spool = Spool(tmp_path, 1 << 30)
    writes = []
    write = spool._own.append

    def counted(*frames: Any) -> None:
        writes.append(frames)
        write(*frames)

    monkeypatch.setattr(spool._own, "append", counted)
    door = fast_door(app, spool)
    async with runner._served([door]):
        clients = [socket.create_connection(door.socket.getsockname()) for _ in range(visitors)]
        await asyncio.sleep(0.1)
        for client in clients:
            client.sendall(CAT)  # the loop does not turn meanwhile
        await until(lambda: spool.unsent == visitors)
        for client in clients:
            assert (await asyncio.to_thread(client.recv, 4096)).startswith(b"HTTP/1.1 307 ")
            client.close()
    assert fewest_writes <= len(writes) < fewest_writes + 4
    spool.close()


async def test_replies_keep_their_order_when_a_slow_request_stands_between_fast_ones(
    client: Client, app: App, spool: ToldSpool
) -> None:
    app.may_answer.clear()
    await client.send(CAT)
    assert (await client.answer())[0] == 307
    await client.send(SLOW, CAT, asking("soon"))
    await until(lambda: app.asked)
    await silence(client)
    app.may_answer.set()
    # What stood behind the slow one may have gone either way: the application names the path, the fast way the target.
    answers = [await client.answer() for _ in range(3)]
    paths = [body or headers["location"].encode() for _, headers, body in answers]
    assert [word in path for word, path in zip((b"/slow", b"/cat", b"/soon"), paths, strict=True)] == [True] * 3
    await client.send(CAT)
    assert (await client.answer())[0] == 307


async def test_what_arrives_while_replies_wait_comes_after_them(client: Client, app: App, spool: ToldSpool) -> None:
    spool.is_slow = True
    await client.send(CAT)
    await until(lambda: spool.futures)
    await client.send(SLOW, CAT)
    await silence(client)
    assert app.asked == [] and len(spool.appended) == 1
    spool.futures[0].set_result(None)
    assert (await client.answer())[0] == 307
    assert (await client.answer())[2] == b"GET /slow 0\n"
    await until(lambda: len(app.asked) == 2 or len(spool.futures) == 2)
    for future in written(spool):
        future.set_result(None)
    assert (await client.answer())[0] in (200, 307)


async def test_head_is_answered_and_not_counted(client: Client, app: App, spool: ToldSpool) -> None:
    await client.send(CAT.replace(b"GET", b"HEAD"))
    await until(lambda: app.asked == [("HEAD", "/cat")])
    assert spool.appended == []


@pytest.mark.parametrize("begun", [b"G", CAT[:-1], CAT + b"GET /c"])
async def test_half_a_head_is_timed(client: Client, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    monkeypatch.setattr(protocol, "_SWEEP_SECONDS", 0.05)
    await client.send(begun)
    if begun.startswith(CAT):
        assert (await client.answer())[0] == 200
    assert await client.problem() == (408, "REQUEST_TIMEOUT")


async def test_a_connection_that_asks_no_more_is_closed_in_silence_and_one_that_is_owed_a_reply_is_not(
    app: App, spool: ToldSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_IDLE_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "_SWEEP_SECONDS", 0.05)
    door = fast_door(app, spool)
    async with runner._served([door]), connected(door) as idle, connected(door) as owed:
        await idle.send(CAT)
        assert (await idle.answer())[0] == 307
        spool.is_slow = True
        await owed.send(CAT)
        await idle.is_closed()
        await asyncio.sleep(0.3)
        spool.futures[-1].set_result(None)
        assert (await owed.answer())[0] == 307


async def test_there_is_no_timer_for_each_request(client: Client, made: list[FastProtocol]) -> None:
    for _ in range(3):
        await client.send(CAT)
        assert (await client.answer())[0] == 307
    assert made[0].timeout_keep_alive_task is None
    assert made[0].sweeper._next is not None


async def test_draining_finishes_replies_that_wait_and_says_that_they_are_the_last(app: App, spool: ToldSpool) -> None:
    door = fast_door(app, spool)
    spool.is_slow = True
    served = runner._served([door])
    await served.__aenter__()
    async with connected(door) as client, connected(door) as idle:
        await client.send(CAT + CAT)
        await until(lambda: spool.futures)
        leaving = asyncio.create_task(served.__aexit__(None, None, None))
        await idle.is_closed()
        assert not leaving.done()
        await client.send(CAT)  # comes too late
        spool.futures[0].set_result(None)
        assert "connection" not in (await client.answer())[1]
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (307, "close")
        await client.is_closed()
        await leaving
    assert len(spool.appended) == 2


async def test_reading_pauses_while_much_is_unread(app: App, spool: ToldSpool, made: list[FastProtocol]) -> None:
    door = fast_door(app, spool, made)
    short = b"GET /cat HTTP/1.1\r\n\r\n"
    few = short * 500
    async with runner._served([door]):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await asyncio.to_thread(raw.connect, door.socket.getsockname())
        raw.setblocking(False)
        await until(lambda: made and made[0].transport)
        made[0].transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        asked = 0
        while not made[0].flow.write_paused:
            with contextlib.suppress(BlockingIOError):
                asked += raw.send(few[asked % len(few) :])
            await asyncio.sleep(0.005)
        asked += raw.send(few[asked % len(few) :])
        await until(lambda: made[0].flow.read_paused)
        counted = len(spool.appended)
        assert made[0].transport.get_write_buffer_size() > 64 * 1024
        await asyncio.sleep(0.05)
        assert len(spool.appended) == counted < asked // len(short)
        answered = await asyncio.to_thread(_read_answers, raw, asked // len(short))
        assert answered == asked // len(short) == len(spool.appended) + len(app.asked)
        raw.close()


def _read_answers(raw: socket.socket, wanted: int) -> int:
    raw.settimeout(20)
    seen, tail = 0, b""
    while seen < wanted and (more := raw.recv(1 << 20)):
        data = tail + more
        seen += data.count(b"HTTP/1.1 ")
        tail = data[-8:]
    return seen


async def test_a_client_who_leaves_before_the_reply_disturbs_nobody(door: Door, spool: ToldSpool) -> None:
    spool.is_slow = True
    async with connected(door) as leaves, connected(door) as stays:
        await leaves.send(CAT)
        await stays.send(CAT)
        await until(lambda: len(spool.appended) == 2)
        leaves.writer.transport.abort()
        await asyncio.sleep(0.05)
        for future in written(spool):
            future.set_result(None)
        assert (await stays.answer())[0] == 307


@pytest.mark.parametrize("asked", [CAT, CAT + SLOW, SLOW + CAT, CAT + b"GET /c"])
async def test_who_says_that_nothing_more_comes_gets_the_answers_to_what_it_asked(client: Client, asked: bytes) -> None:
    client.writer.write(asked)
    client.writer.write_eof()
    for path in re.findall(rb"GET (/\w+) HTTP", asked):
        _, headers, body = await client.answer()
        assert path in (body or headers["location"].encode())  # it may have gone either way
    await client.is_closed()


async def test_a_defect_costs_its_own_turn_and_no_other(
    client: Client, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(FastRedirects, "_accesses_of", fails)
        await client.send(CAT)
        await client.is_closed()
    async with connected(door) as other:
        await other.send(CAT)
        assert (await other.answer())[0] == 307


async def test_a_known_link_is_redirected_while_the_application_hangs(door: Door, app: App) -> None:
    app.may_answer.clear()
    async with connected(door) as one, connected(door) as other:
        await one.send(SLOW)
        await other.send(CAT)
        assert (await other.answer())[0] == 307
    app.may_answer.set()
