"""The publisher against a broker that lies on the wire: the driver between them is the real one."""

import asyncio
from collections.abc import Callable, Iterable

import pytest
from pamqp.commands import Basic

from tests.events.lying_server import LyingServer, Said
from tests.events.memory_spool import MemorySpool
from tests.events.test_amqp_publisher import publishing, until
from urlshortener.events import amqp_publisher
from urlshortener.events.amqp import Broker
from urlshortener.events.spool import Batch


def _honest(_: int, number: int) -> Iterable[Said]:
    yield Basic.Ack(number)


def _several_at_once(_: int, number: int) -> Iterable[Said]:
    if number % 4 == 0:
        yield Basic.Ack(number, multiple=True)


def _backwards(connection: int, number: int) -> Iterable[Said]:
    if number % 4 == 0:
        yield from (Basic.Ack(number - back) for back in range(4))


def _forgets_one(connection: int, number: int) -> Iterable[Said]:
    """The first connection keeps the third message and never says so; it ends at the eighth."""
    if connection == 1 and number == 8:
        yield None
    elif connection > 1 or number != 3:
        yield Basic.Ack(number)


def _refuses_one(connection: int, number: int) -> Iterable[Said]:
    yield Basic.Nack(number) if connection == 1 and number == 3 else Basic.Ack(number)


def _refuses_several(connection: int, number: int) -> Iterable[Said]:
    if connection > 1:
        yield Basic.Ack(number)
    elif number == 6:
        yield Basic.Nack(number, multiple=True)


def _closes_in_between(connection: int, number: int) -> Iterable[Said]:
    yield None if connection <= 2 and number == connection + 1 else Basic.Ack(number)


@pytest.mark.parametrize(
    "says",
    [_honest, _several_at_once, _backwards, _forgets_one, _refuses_one, _refuses_several, _closes_in_between],
)
async def test_only_what_it_has_confirmed_leaves_the_spool_and_all_of_it_does_in_the_end(
    says: Callable[[int, int], Iterable[Said]],
) -> None:
    spool = MemorySpool()
    spool.add(256 * 16)
    async with LyingServer(says) as liar:
        async with publishing(Broker([(liar.host, liar.port)], "u", "p", "/"), spool) as publisher:
            assert await publisher.drain(20) == 0
        kept = b"".join(liar.kept)
    assert sum(f'"event-{number}"'.encode() in kept for number in (0, 767, 768, 4095)) == 4
    assert len(liar.kept) >= 16
    assert says in (_honest, _several_at_once, _backwards) or liar.connections > 1


async def test_a_window_is_sent_again_to_the_next_host() -> None:
    spool = MemorySpool()
    spool.add(256 * 8)

    def hears_and_says_nothing(_: int, number: int) -> Iterable[Said]:
        if number == 5:
            yield None

    async with LyingServer(hears_and_says_nothing) as first, LyingServer(_honest) as second:
        hosts = [(first.host, first.port), (second.host, second.port)]
        async with publishing(Broker(hosts, "u", "p", "/"), spool) as publisher:
            assert await publisher.drain(20) == 0
        assert (first.connections, second.connections) == (1, 1)
        assert not first.kept
        assert sum(len(body.split(b'"event_id"')) - 1 for body in second.kept) == 256 * 8


async def test_under_light_load_messages_are_few_and_no_event_waits_long() -> None:
    """Three shorteners must not fill a consumer's prefetch while it waits out its grace."""
    spool = MemorySpool()
    loop = asyncio.get_running_loop()
    async with LyingServer(_honest) as liar:
        async with publishing(Broker([(liar.host, liar.port)], "u", "p", "/"), spool) as publisher:
            await until(lambda: publisher.is_connected, "it is connected")
            began = loop.time()
            while loop.time() - began < 1:
                spool.add(1)
                await asyncio.sleep(0.004)
            assert await publisher.drain(5) == 0
            seconds = loop.time() - began
        assert len(liar.bodies) <= seconds / 0.05 + 2


class _OfWholeFrames(MemorySpool):
    """Its frames fill no message to the last event."""

    async def take(self, most: int = 256) -> Batch:
        return await super().take(min(most, 250))


async def test_what_has_piled_up_is_sent_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = 0.0503, 0.0103  # nobody else's
    monkeypatch.setattr(amqp_publisher, "_GATHER_SECONDS", pauses[0])
    monkeypatch.setattr(amqp_publisher, "_SHORT_GATHER_SECONDS", pauses[1])
    waited: list[float] = []
    sleep = asyncio.sleep

    async def told(seconds: float) -> None:
        if seconds in pauses:
            waited.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", told)
    spool = _OfWholeFrames()
    async with (
        LyingServer(_honest) as liar,
        publishing(Broker([(liar.host, liar.port)], "u", "p", "/"), spool) as publisher,
    ):
        spool.add(40 * 250)
        assert await publisher.drain(10) == 0
    assert len(liar.bodies) == 40
    assert not waited
