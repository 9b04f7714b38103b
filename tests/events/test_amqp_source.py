"""The source on a real RabbitMQ: events come until they are acknowledged, and poison blocks nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiormq
import pytest
from pamqp.commands import Basic

from tests.backends.rabbitmq import Rabbitmq
from tests.events.memory_spool import event_body
from tests.events.test_amqp_publisher import TOPOLOGY, broker_of, channel_to, received, until
from urlshortener.events.amqp import AmqpSource, Broker
from urlshortener.events.amqp_source import AmqpDelivery, _Poison
from urlshortener.events.amqp_topology import declare
from urlshortener.events.event import EventId


@pytest.fixture
async def broker(rabbitmq: Rabbitmq, vhost: str) -> Broker:
    broker = broker_of(rabbitmq, vhost)
    async with channel_to(broker) as channel:
        await declare(channel, TOPOLOGY)
    return broker


@pytest.fixture
async def source(broker: Broker) -> AsyncIterator[AmqpSource]:
    source = AmqpSource(broker, TOPOLOGY)
    yield source
    await source.close()


async def publish(broker: Broker, *bodies: bytes, **properties: str) -> None:
    async with channel_to(broker) as channel:
        for body in bodies:
            await channel.basic_publish(
                body,
                exchange=TOPOLOGY.exchange,
                routing_key=TOPOLOGY.routing_key,
                properties=aiormq.spec.Basic.Properties(delivery_mode=2, **properties),  # type: ignore[arg-type]
                mandatory=True,
            )


async def next_of(deliveries: AsyncIterator[AmqpDelivery], count: int) -> list[AmqpDelivery]:
    async with asyncio.timeout(15):
        return [await anext(deliveries) for _ in range(count)]


def numbers_of(deliveries: list[AmqpDelivery]) -> list[int]:
    return [event.id.seq for each in deliveries for event in each.events if isinstance(event.id, EventId)]


async def ready_in(broker: Broker) -> int:
    async with channel_to(broker) as channel:
        return (await channel.queue_declare(TOPOLOGY.queue, passive=True)).message_count or 0


async def test_deliveries_come_in_order_with_their_events(broker: Broker, source: AmqpSource) -> None:
    await publish(broker, event_body(0), b"[" + event_body(1) + b"," + event_body(2) + b"]")
    async with source.deliveries() as deliveries:
        one, two = await next_of(deliveries, 2)
        assert numbers_of([one, two]) == [0, 1, 2]
        assert len(two.events) == 2
        assert source.is_connected


async def test_what_is_acknowledged_never_comes_again_and_the_rest_does(broker: Broker, source: AmqpSource) -> None:
    await publish(broker, *map(event_body, range(6)))
    async with source.deliveries() as deliveries:
        came = await next_of(deliveries, 6)
        for index in (1, 0, 4):
            came[index].acknowledge()
    async with source.deliveries() as deliveries:
        again = await next_of(deliveries, 4)  # 4 was acknowledged behind a gap: it may come again, it may not be lost
        assert numbers_of(again) == [2, 3, 4, 5]
        for delivery in again:
            delivery.acknowledge()
    assert await ready_in(broker) == 0


async def test_what_is_given_back_comes_again_after_a_pause(broker: Broker, source: AmqpSource) -> None:
    await publish(broker, event_body(0))
    async with source.deliveries() as deliveries:
        for _ in range(3):
            (delivery,) = await next_of(deliveries, 1)
            delivery.give_back()
        (delivery,) = await next_of(deliveries, 1)
        delivery.acknowledge()
    assert await ready_in(broker) == 0


async def test_a_connection_that_the_broker_closes_is_replaced_and_its_deliveries_are_void(
    own_rabbitmq: Rabbitmq,
) -> None:
    broker = broker_of(own_rabbitmq, own_rabbitmq.fresh_vhost())
    async with channel_to(broker) as channel:
        await declare(channel, TOPOLOGY)
    await publish(broker, event_body(0), event_body(1))
    async with AmqpSource(broker, TOPOLOGY).deliveries() as deliveries:
        old = await next_of(deliveries, 2)
        await asyncio.to_thread(own_rabbitmq.close_connections)
        again = await next_of(deliveries, 2)
        for delivery in old:
            delivery.acknowledge()  # the same numbers mean other messages by now
        again[0].acknowledge()
    async with AmqpSource(broker, TOPOLOGY).deliveries() as deliveries:
        assert numbers_of(await next_of(deliveries, 1)) == [1]


async def test_a_broker_that_is_killed_and_restarted_delivers_all_that_was_not_acknowledged(
    own_rabbitmq: Rabbitmq,
) -> None:
    broker = broker_of(own_rabbitmq, own_rabbitmq.fresh_vhost())
    async with channel_to(broker) as channel:
        await declare(channel, TOPOLOGY)
    await publish(broker, *map(event_body, range(20)))
    async with AmqpSource(broker, TOPOLOGY).deliveries() as deliveries:
        for delivery in (await next_of(deliveries, 20))[:5]:
            delivery.acknowledge()
        await asyncio.to_thread(own_rabbitmq.kill)
        await asyncio.to_thread(own_rabbitmq.start)
        seen: set[int] = set()
        async with asyncio.timeout(20):
            while not seen >= set(range(5, 20)):
                seen |= set(numbers_of([await anext(deliveries)]))


async def test_deliveries_that_are_out_are_bounded(broker: Broker) -> None:
    await publish(broker, *map(event_body, range(12)))
    async with AmqpSource(broker, TOPOLOGY, prefetch=5).deliveries() as deliveries:
        came = await next_of(deliveries, 5)
        waiting = asyncio.ensure_future(anext(deliveries))
        assert await ready_in(broker) == 7
        assert not waiting.done()
        for delivery in came:
            delivery.acknowledge()
        async with asyncio.timeout(10):
            assert numbers_of([await waiting]) == [5]


async def test_a_queue_that_is_deleted_under_the_consumer_is_declared_and_consumed_anew(
    broker: Broker, source: AmqpSource
) -> None:
    async with source.deliveries() as deliveries:
        await until(lambda: source.is_connected, "it is connected")
        await publish(broker, event_body(0))
        await next_of(deliveries, 1)
        async with channel_to(broker) as channel:
            await channel.queue_delete(TOPOLOGY.queue)
        async with asyncio.timeout(15):
            while True:
                with contextlib.suppress(aiormq.exceptions.AMQPError):
                    await publish(broker, event_body(1))
                    break
                await asyncio.sleep(0.05)
        assert numbers_of(await next_of(deliveries, 1)) == [1]


async def test_poison_is_set_aside_with_its_reason_and_its_bytes_and_blocks_nothing(
    broker: Broker, source: AmqpSource
) -> None:
    poison = b'{"this is": "no event \xff'
    await publish(broker, event_body(0), poison, event_body(1), message_id="from-elsewhere")
    async with source.deliveries() as deliveries:
        came = await next_of(deliveries, 2)
        assert numbers_of(came) == [0, 1]
        for delivery in came:
            delivery.acknowledge()
        dead: list[aiormq.abc.DeliveredMessage] = []
        async with asyncio.timeout(15):
            while not dead:
                dead = await received(broker, TOPOLOGY.dead_queue)
    assert [message.body for message in dead] == [poison]
    properties = dead[0].header.properties
    assert properties.headers and properties.headers["reason"]
    assert properties.message_id == "from-elsewhere"
    assert await ready_in(broker) == 0


async def test_a_broker_that_takes_no_more_messages_still_hears_what_is_acknowledged(own_rabbitmq: Rabbitmq) -> None:
    """It stops reading whoever publishes: so what sets poison aside is not the connection that acknowledges.

    And the queue has to become shorter, that it may have memory again: so what lies behind the poison is not held up.
    """
    vhost = own_rabbitmq.fresh_vhost()
    broker = broker_of(own_rabbitmq, vhost)
    async with channel_to(broker) as channel:
        await declare(channel, TOPOLOGY)
    await publish(broker, event_body(0), b"no event", event_body(1), event_body(2))
    await asyncio.to_thread(own_rabbitmq.raise_memory_alarm)
    source = AmqpSource(broker, TOPOLOGY)
    async with source.deliveries() as deliveries:
        came = await next_of(deliveries, 3)
        await until(lambda: own_rabbitmq.blocked_connections(vhost) == 1, "its publisher is blocked")
        for delivery in came:
            delivery.acknowledge()
        await until_it_holds(own_rabbitmq, vhost, TOPOLOGY.queue, 1)
        assert own_rabbitmq.messages_in(vhost, TOPOLOGY.dead_queue) == 0
        await asyncio.to_thread(own_rabbitmq.clear_memory_alarm)
        await until_it_holds(own_rabbitmq, vhost, TOPOLOGY.queue, 0)
        await until_it_holds(own_rabbitmq, vhost, TOPOLOGY.dead_queue, 1)
        await publish(broker, event_body(3), event_body(4))
        for delivery in await next_of(deliveries, 2):
            delivery.acknowledge()
        await until_it_holds(own_rabbitmq, vhost, TOPOLOGY.queue, 0)
        assert source.is_connected


def test_a_dead_letter_keeps_its_headers_unless_they_cannot_be_written() -> None:
    poison = _Poison(1, b"", Basic.Properties(message_id="m", headers={"epoch": "e"}), "why")
    assert poison.as_dead_letter().headers == {"epoch": "e", "reason": "why"}
    headers: Any = {"x": object()}
    strange = replace(poison, properties=Basic.Properties(message_id="m", headers=headers))
    assert strange.as_dead_letter().headers == {"reason": "why"}
    assert strange.as_dead_letter().message_id == "m"


async def until_it_holds(server: Rabbitmq, vhost: str, queue: str, messages: int) -> None:
    async with asyncio.timeout(20):
        while await asyncio.to_thread(server.messages_in, vhost, queue) != messages:
            await asyncio.sleep(0.1)


async def test_what_the_broker_itself_gives_up_comes_to_the_dead_letters(broker: Broker) -> None:
    await publish(broker, event_body(0), expiration="1")
    dead: list[aiormq.abc.DeliveredMessage] = []
    async with asyncio.timeout(15):
        while not dead:
            dead = await received(broker, TOPOLOGY.dead_queue)
    assert dead[0].body == event_body(0)


async def test_a_consumer_that_the_broker_forgot_is_noticed(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    channels: list[aiormq.abc.AbstractChannel] = []
    consume = aiormq.Channel.basic_consume

    async def remembered(self: aiormq.Channel, *arguments: object, **options: object) -> object:
        channels.append(self)
        return await consume(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(aiormq.Channel, "basic_consume", remembered)
    async with AmqpSource(broker, TOPOLOGY, quiet_seconds=0.3).deliveries() as deliveries:
        await until(lambda: bool(channels), "it consumes")
        await publish(broker, event_body(0))
        (first,) = await next_of(deliveries, 1)
        first.acknowledge()
        (tag,) = channels[0].consumers  # type: ignore[attr-defined]
        await channels[0].basic_cancel(tag)
        await publish(broker, event_body(1))
        assert numbers_of(await next_of(deliveries, 1)) == [1]
    assert len(channels) == 2


async def test_closing_ends_the_deliveries(source: AmqpSource) -> None:
    async with source.deliveries() as deliveries:
        await until(lambda: source.is_connected, "it is connected")
        await source.close()
        with pytest.raises(StopAsyncIteration):
            await anext(deliveries)
        assert not source.is_connected
