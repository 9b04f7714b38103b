"""Dead letters, looked at and sent again: on a real RabbitMQ, and beside a spool."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.backends.rabbitmq import Rabbitmq
from tests.events.memory_spool import event_body
from tests.events.test_amqp_publisher import TOPOLOGY, broker_of, channel_to, received
from tests.events.test_amqp_source import publish
from urlshortener.errors import Unavailable
from urlshortener.events.amqp import AmqpDeadLetters, AmqpSource, Broker, Topology
from urlshortener.events.amqp_topology import declare
from urlshortener.events.dead_letters import Replayed, SpoolDeadLetters
from urlshortener.events.event import EventId
from urlshortener.events.in_process import InProcessSource
from urlshortener.events.spool import Spool

_POISON = b'{"this is": "no event"}'
_AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


@pytest.fixture
async def broker(rabbitmq: Rabbitmq, vhost: str) -> Broker:
    broker = broker_of(rabbitmq, vhost)
    async with channel_to(broker) as channel:
        await declare(channel, TOPOLOGY)
    return broker


async def _put_aside(broker: Broker, *bodies: bytes) -> None:
    """As a source does that can read none of them."""
    async with channel_to(broker) as channel:
        for body in bodies:
            await channel.basic_publish(body, routing_key=TOPOLOGY.dead_queue)


@contextlib.asynccontextmanager
async def consuming(broker: Broker) -> AsyncIterator[None]:
    """Somebody reads the queue, and puts aside what is no event."""

    async def read() -> None:
        async with AmqpSource(broker, TOPOLOGY).deliveries() as deliveries:
            async for delivery in deliveries:
                delivery.acknowledge()

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def test_poison_is_shown_with_its_reason_and_its_time_and_stays(broker: Broker) -> None:
    await publish(broker, _POISON)
    async with consuming(broker):
        letters = AmqpDeadLetters(broker, TOPOLOGY)
        async with asyncio.timeout(15):
            while not (found := await letters.first(10)):
                await asyncio.sleep(0.05)
    (letter,) = found
    assert (letter.body, letter.is_an_event_now) == (_POISON, False)
    assert "code" in letter.reason
    assert letter.at and datetime.now(UTC) - letter.at < timedelta(minutes=1)
    assert [each.body for each in await letters.first(10)] == [_POISON]


async def test_what_the_broker_gave_up_has_the_broker_s_reason(broker: Broker) -> None:
    await publish(broker, event_body(0), expiration="1")
    letters = AmqpDeadLetters(broker, TOPOLOGY)
    async with asyncio.timeout(15):
        while not (found := await letters.first(10)):
            await asyncio.sleep(0.05)
    assert found[0].reason == "the broker gave it up: expired"
    assert found[0].is_an_event_now and found[0].at


async def test_a_replay_sends_what_is_an_event_and_keeps_the_rest(broker: Broker) -> None:
    events = [event_body(number) for number in range(150)]
    await _put_aside(broker, _POISON, *events)
    letters, told = AmqpDeadLetters(broker, TOPOLOGY), list[int]()
    assert await letters.replay(1000, all_of_them=False, progress=told.append) == Replayed(150, 1)
    assert told[-1] == 150
    assert [message.body for message in await received(broker)] == events
    assert [letter.body for letter in await letters.first(10)] == [_POISON]


async def test_a_replay_of_all_sends_poison_too_and_ends(broker: Broker) -> None:
    await _put_aside(broker, _POISON, _POISON)
    async with consuming(broker):
        letters = AmqpDeadLetters(broker, TOPOLOGY)
        assert await letters.replay(1000, all_of_them=True, progress=lambda _: None) == Replayed(2, 0)
        async with asyncio.timeout(15):
            while len(await letters.first(10)) < 2:
                await asyncio.sleep(0.05)


async def test_what_is_not_confirmed_stays_among_the_dead_letters(rabbitmq: Rabbitmq, vhost: str) -> None:
    broker, small = broker_of(rabbitmq, vhost), Topology(most_bytes=1)
    async with channel_to(broker) as channel:
        await declare(channel, small)
    await _put_aside(broker, event_body(0))
    await publish(broker, event_body(1))  # now the queue is full
    letters = AmqpDeadLetters(broker, small)
    with pytest.raises(Unavailable):
        await letters.replay(10, all_of_them=False, progress=lambda _: None)
    assert [letter.body for letter in await letters.first(10)] == [event_body(0)]


def _line(epoch: str, body: bytes) -> str:
    return json.dumps({"at": _AT.isoformat(), "reason": "because", "epoch": epoch, "body": body.decode()}) + "\n"


async def test_letters_beside_a_spool_are_counted_under_their_own_numbers(tmp_path: Path) -> None:
    epoch = "019300000000-AAAAAAAAAAAAAAAA"
    body = event_body(7).replace(b"0123456789abcdef", epoch.encode())
    file = tmp_path / "dead-letters.jsonl"
    file.write_text(_line(epoch, body) + _line(epoch, _POISON) + "torn")
    letters = SpoolDeadLetters(tmp_path, _AT.timestamp)
    shown = await letters.first(10)
    assert [(letter.reason, letter.at, letter.is_an_event_now) for letter in shown] == [
        ("because", _AT, True),
        ("because", _AT, False),
        ("the line itself cannot be read", None, False),
    ]
    assert await letters.replay(10, all_of_them=True, progress=lambda _: None) == Replayed(1, 2)
    assert [letter.reason for letter in await letters.first(10)] == ["because", "the line itself cannot be read"]
    spool = Spool(tmp_path, 1 << 26, _AT.timestamp)
    async with InProcessSource(spool).deliveries() as deliveries:
        delivery = await asyncio.wait_for(anext(deliveries), 5)
        assert [event.id for event in delivery.events] == [EventId(epoch, 7)]
        delivery.acknowledge()
    assert list(tmp_path.glob("019300000000-*")) == []
    spool.close()


async def test_letters_whose_process_still_lives_stay_until_it_is_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 26, _AT.timestamp)
    body = event_body(7).replace(b"0123456789abcdef", spool.epoch.encode())
    (tmp_path / "dead-letters.jsonl").write_text(_line(spool.epoch, body))
    letters = SpoolDeadLetters(tmp_path, _AT.timestamp)
    assert await letters.replay(10, all_of_them=False, progress=lambda _: None) == Replayed(0, 1)
    assert len(await letters.first(10)) == 1
    spool.close()
    assert await letters.replay(10, all_of_them=False, progress=lambda _: None) == Replayed(1, 0)
