import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tests.backends.cut_proxy import CutProxy


class Shouting(NamedTuple):
    """A server that answers each line in capitals, and what it has heard."""

    port: int
    heard: list[bytes]


@pytest.fixture
async def shouting() -> AsyncIterator[Shouting]:
    heard: list[bytes] = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                heard.append(line)
                writer.write(line.upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    yield Shouting(server.sockets[0].getsockname()[1], heard)
    server.close()


async def _say(proxy: CutProxy, line: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(line)
    return reader


async def test_bytes_are_carried_both_ways(shouting: Shouting) -> None:
    async with CutProxy("127.0.0.1", shouting.port) as proxy:
        assert await (await _say(proxy, b"cat\n")).readline() == b"CAT\n"


async def test_a_reply_is_cut_after_so_many_bytes_and_the_request_was_done(shouting: Shouting) -> None:
    async with CutProxy("127.0.0.1", shouting.port) as proxy:
        proxy.cut_after_reply_bytes(2)
        assert await (await _say(proxy, b"cat\n")).read() == b"CA"
        assert shouting.heard == [b"cat\n"]
        assert proxy.connections_cut == 1
        assert await (await _say(proxy, b"dog\n")).readline() == b"DOG\n"


async def test_a_reply_can_be_lost_whole(shouting: Shouting) -> None:
    async with CutProxy("127.0.0.1", shouting.port) as proxy:
        proxy.cut_after_reply_bytes(0)
        assert await (await _say(proxy, b"cat\n")).read() == b""
        assert shouting.heard == [b"cat\n"]


async def test_what_was_frozen_arrives_after_the_thaw(shouting: Shouting) -> None:
    async with CutProxy("127.0.0.1", shouting.port) as proxy:
        proxy.freeze()
        reply = asyncio.create_task((await _say(proxy, b"cat\n")).readline())
        await asyncio.wait([reply], timeout=0.1)
        assert not reply.done()
        assert shouting.heard == []
        proxy.thaw()
        assert await asyncio.wait_for(reply, 5) == b"CAT\n"


async def test_all_connections_are_reset_on_command_and_new_ones_are_taken(shouting: Shouting) -> None:
    async with CutProxy("127.0.0.1", shouting.port) as proxy:
        reader = await _say(proxy, b"cat\n")
        assert await reader.readline() == b"CAT\n"
        proxy.cut_all()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert await (await _say(proxy, b"dog\n")).readline() == b"DOG\n"


async def test_connections_are_refused_until_they_are_allowed(shouting: Shouting) -> None:
    async with CutProxy("127.0.0.1", shouting.port) as proxy:
        proxy.refuse()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for((await _say(proxy, b"cat\n")).read(), 5) == b""
        assert shouting.heard == []
        proxy.allow()
        assert await (await _say(proxy, b"dog\n")).readline() == b"DOG\n"
