"""What every EventSource promises, over the spool itself and over RabbitMQ."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from urlshortener.events.amqp import AmqpPublisher, AmqpSource, Broker, Topology
from urlshortener.events.channel import Delivery, EventSource
from urlshortener.events.event import Progress
from urlshortener.events.in_process import InProcessSource
from urlshortener.events.spool import Spool

_AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)

Send = Callable[[int], Awaitable[list[str]]]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, 1 << 26)


@pytest.fixture(params=["in-process", "amqp"])
async def channel(request: pytest.FixtureRequest, spool: Spool) -> AsyncIterator[tuple[Send, EventSource]]:
    """Something that sends events, and the source that they arrive at."""
    source: EventSource
    publishing: asyncio.Task[None] | None = None
    if request.param == "in-process":
        source = InProcessSource(spool)
    else:
        server, vhost = request.getfixturevalue("rabbitmq"), request.getfixturevalue("vhost")
        broker = Broker(((server.host, server.port),), server.user, server.password, vhost)
        source = AmqpSource(broker, Topology())
        publishing = asyncio.create_task(AmqpPublisher(broker, Topology(), spool).run())
    numbers = iter(range(1_000_000))

    async def send(count: int) -> list[str]:
        codes = [f"code-{next(numbers)}" for _ in range(count)]
        for code in codes:
            written = spool.append(code, _AT, None, None, None, None)
        await written
        return codes

    yield send, source
    if publishing is not None:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    await source.close()
    spool.close()


async def received(deliveries: AsyncIterator[Delivery], count: int) -> tuple[list[Delivery], set[str]]:
    """Deliveries until so many different events have come."""
    got, codes = [], set[str]()
    async with asyncio.timeout(20):
        while len(codes) < count:
            delivery = await anext(deliveries)
            got.append(delivery)
            codes |= {event.code for event in delivery.events}
    return got, codes


async def nothing_comes(deliveries: AsyncIterator[Delivery]) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(anext(deliveries), 0.5)
        return False
    return True


async def test_what_is_sent_is_delivered(channel: tuple[Send, EventSource]) -> None:
    send, source = channel
    sent = await send(1000)
    async with source.deliveries() as deliveries:
        got, codes = await received(deliveries, 1000)
        assert codes == set(sent)
        assert all(event.at == _AT for delivery in got for event in delivery.events)


async def test_a_delivery_tells_how_far_its_epoch_has_come_and_the_last_one_that_it_is_over(
    channel: tuple[Send, EventSource], spool: Spool
) -> None:
    send, source = channel
    await send(10)
    async with source.deliveries() as deliveries:
        got, _ = await received(deliveries, 10)
        for delivery in got:
            assert delivery.progress
            assert (delivery.progress.epoch, delivery.progress.host) == (spool.epoch, os.uname().nodename)
            assert not delivery.progress.is_last
            delivery.acknowledge()
        assert got[-1].progress and got[-1].progress.highest_seq == 9
        while spool.unsent:
            await asyncio.sleep(0.01)
        spool.end_epoch()
        farewell = await asyncio.wait_for(anext(deliveries), 10)
        assert (farewell.events, farewell.progress) == ([], Progress(spool.epoch, os.uname().nodename, 9, is_last=True))


async def test_what_was_not_acknowledged_is_delivered_again_to_whoever_comes(
    channel: tuple[Send, EventSource],
) -> None:
    send, source = channel
    sent = await send(300)
    async with source.deliveries() as deliveries:
        await received(deliveries, 300)
    async with source.deliveries() as deliveries:
        _, codes = await received(deliveries, 300)
    assert codes == set(sent)


async def test_what_was_acknowledged_is_not_delivered_again(channel: tuple[Send, EventSource]) -> None:
    send, source = channel
    await send(300)
    async with source.deliveries() as deliveries:
        got, _ = await received(deliveries, 300)
        for delivery in reversed(got):  # in any order
            delivery.acknowledge()
    later = await send(1)
    async with source.deliveries() as deliveries:
        _, codes = await received(deliveries, 1)
        assert codes == set(later)
        assert await nothing_comes(deliveries)


async def test_what_is_given_back_is_delivered_again(channel: tuple[Send, EventSource]) -> None:
    send, source = channel
    sent = await send(10)
    async with source.deliveries() as deliveries:
        got, _ = await received(deliveries, 10)
        got[0].give_back()
        got[0].acknowledge()  # too late: it counts for nothing
        _, codes = await received(deliveries, len(got[0].events))
        assert {event.code for event in got[0].events} <= codes
        assert codes <= set(sent)


async def test_an_acknowledgement_after_leaving_counts_for_nothing(channel: tuple[Send, EventSource]) -> None:
    send, source = channel
    sent = await send(5)
    async with source.deliveries() as deliveries:
        got, _ = await received(deliveries, 5)
    for delivery in got:
        delivery.acknowledge()
    async with source.deliveries() as deliveries:
        _, codes = await received(deliveries, 5)
    assert codes == set(sent)
