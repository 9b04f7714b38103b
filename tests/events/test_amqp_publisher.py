"""The publisher on a real RabbitMQ: whatever happens to the broker, the spool keeps what is not confirmed."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable

import aiormq
import pytest

from tests.backends.rabbitmq import Rabbitmq
from tests.events.memory_spool import EPOCH, MemorySpool
from urlshortener.events.amqp import AmqpPublisher, Broker, Topology
from urlshortener.events.amqp_publisher import _Window
from urlshortener.events.spool import Batch
from urlshortener.telemetry import BROKER_BLOCKED

TOPOLOGY = Topology()


def broker_of(server: Rabbitmq, vhost: str, *before: tuple[str, int]) -> Broker:
    return Broker([*before, (server.host, server.port)], server.user, server.password, vhost)


async def until(condition: Callable[[], bool], what: str, within_seconds: float = 15) -> None:
    try:
        async with asyncio.timeout(within_seconds):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {within_seconds} s") from None


@contextlib.asynccontextmanager
async def publishing(broker: Broker, spool: MemorySpool, topology: Topology = TOPOLOGY) -> AsyncIterator[AmqpPublisher]:
    publisher = AmqpPublisher(broker, topology, spool)
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
        assert not running.done(), "the publisher ended by itself"
    finally:
        running.cancel()
        await asyncio.wait([running])


@contextlib.asynccontextmanager
async def channel_to(broker: Broker) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    async with aiormq.connect(broker.url(*broker.hosts[-1], "test")) as connection:
        yield await connection.channel()


async def received(broker: Broker, queue: str = TOPOLOGY.queue) -> list[aiormq.abc.DeliveredMessage]:
    """Take all that is in a queue."""
    messages = []
    async with channel_to(broker) as channel:
        while isinstance((message := await channel.basic_get(queue, no_ack=True)).delivery, aiormq.spec.Basic.GetOk):
            messages.append(message)
    return messages


def numbers_in(messages: list[aiormq.abc.DeliveredMessage]) -> list[int]:
    bodies = (json.loads(message.body) for message in messages)
    return [event["seq"] for body in bodies for event in (body if isinstance(body, list) else [body])]


@pytest.fixture
def broker(rabbitmq: Rabbitmq, vhost: str) -> Broker:
    return broker_of(rabbitmq, vhost)


@pytest.mark.parametrize(
    ("events", "size", "seconds"), [(1, 400, 0.05), (64, 25_000, 0.01), (128, 50_000, 0), (20, 65_536, 0)]
)
def test_the_less_a_message_had_the_longer_the_next_waits(events: int, size: int, seconds: float) -> None:
    publisher = AmqpPublisher(Broker([("127.0.0.1", 1)], "app", "", "/"), TOPOLOGY, MemorySpool())
    batch = Batch(EPOCH, 0, events, b"x" * size, last_of_epoch=False, highest_seq=events)
    assert publisher._gather_seconds(batch) == seconds


async def test_everything_in_the_spool_comes_to_the_queue_and_leaves_the_spool(broker: Broker) -> None:
    spool = MemorySpool()
    spool.add(10_000)
    async with publishing(broker, spool) as publisher:
        assert await publisher.drain(20) == 0
        assert publisher.is_connected
    assert numbers_in(await received(broker)) == list(range(10_000))


async def test_one_event_is_an_object_more_are_an_array_and_the_message_says_which_they_are(broker: Broker) -> None:
    spool = MemorySpool()
    async with publishing(broker, spool) as publisher:
        spool.add(1)
        assert await publisher.drain(10) == 0
        spool.add(3)
        assert await publisher.drain(10) == 0
    one, three = await received(broker)
    assert isinstance(json.loads(one.body), dict)
    assert isinstance(json.loads(three.body), list)
    properties = three.header.properties
    assert (properties.message_id, properties.content_type, properties.delivery_mode) == (
        f"{EPOCH}:1",
        "application/json",
        2,
    )
    ours = {"epoch": EPOCH, "first_seq": 1, "count": 3, "last_of_epoch": False, "highest_seq": 3, "schema": 1}
    assert properties.headers and ours.items() <= properties.headers.items()


async def test_draining_gives_up_at_its_limit_and_says_how_many_are_left() -> None:
    spool = MemorySpool()
    spool.add(7)
    async with publishing(Broker([("127.0.0.1", 9)], "u", "p", "/"), spool) as publisher:
        assert await publisher.drain(0.2) == 7
        assert not publisher.is_connected


async def test_a_host_that_refuses_and_one_that_hangs_are_passed_over(rabbitmq: Rabbitmq, vhost: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = broker_of(rabbitmq, vhost, ("127.0.0.1", 9), ("127.0.0.1", silent.getsockname()[1]))
        spool = MemorySpool()
        spool.add(1)
        async with publishing(broker, spool) as publisher:
            assert await publisher.drain(10) == 0


async def test_what_no_queue_is_bound_for_stays_in_the_spool_until_one_is(broker: Broker) -> None:
    spool = MemorySpool()
    async with publishing(broker, spool) as publisher:
        spool.add(1)
        assert await publisher.drain(10) == 0
        async with channel_to(broker) as channel:
            await channel.queue_unbind(TOPOLOGY.queue, TOPOLOGY.exchange, TOPOLOGY.routing_key)
            spool.add(5)
            # The broker confirms what it could not route. The binding comes back with the next connection.
            assert await publisher.drain(10) == 0
    assert sorted(numbers_in(await received(broker))) == list(range(6))


async def test_a_full_queue_leaves_the_rest_in_the_spool_and_takes_it_when_there_is_room(broker: Broker) -> None:
    small = Topology(most_bytes=20_000)
    spool = MemorySpool()
    taken: list[int] = []
    async with publishing(broker, spool, small):
        for _ in range(40):
            spool.add(25)
            await asyncio.sleep(0.012)
        await until(lambda: 0 < spool.unsent < 1000, "some are confirmed, not all")
        left = spool.unsent
        await asyncio.sleep(0.5)  # time enough for a publisher that takes a nack for a confirm
        assert spool.unsent == left > 0
        async with asyncio.timeout(40):
            while spool.unsent:
                taken += numbers_in(await received(broker))
                await asyncio.sleep(0.05)
    taken += numbers_in(await received(broker))
    assert set(taken) == set(range(1000))


async def test_a_broker_that_is_killed_under_way_loses_nothing_and_is_found_again(own_rabbitmq: Rabbitmq) -> None:
    broker = broker_of(own_rabbitmq, own_rabbitmq.fresh_vhost())
    spool = MemorySpool()
    async with publishing(broker, spool) as publisher:
        spool.add(500)
        assert await publisher.drain(10) == 0
        spool.add(20_000)
        await until(lambda: spool.unsent < 20_000, "some are under way")
        await asyncio.to_thread(own_rabbitmq.kill)
        await until(lambda: not publisher.is_connected, "the loss is noticed")
        spool.add(500)
        await asyncio.to_thread(own_rabbitmq.start)
        assert await publisher.drain(15) == 0
    assert set(numbers_in(await received(broker))) == set(range(21_000))


async def test_nothing_is_sent_while_the_broker_is_blocked(own_rabbitmq: Rabbitmq) -> None:
    broker = broker_of(own_rabbitmq, own_rabbitmq.fresh_vhost())
    spool = MemorySpool()
    async with publishing(broker, spool) as publisher:
        spool.add(1)
        assert await publisher.drain(10) == 0
        await asyncio.to_thread(own_rabbitmq.raise_memory_alarm)
        async with asyncio.timeout(15):
            while BROKER_BLOCKED._value.get() == 0:
                spool.add(1)  # a broker tells only those that try to publish
                await asyncio.sleep(0.05)
        spool.add(300)
        assert await publisher.drain(0.5) > 300
        await asyncio.to_thread(own_rabbitmq.clear_memory_alarm)
        assert await publisher.drain(10) == 0
        await until(lambda: BROKER_BLOCKED._value.get() == 0, "the end of the block is shown")


async def test_a_queue_of_another_kind_is_named_loudly_and_used_once_it_is_right(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async with channel_to(broker) as channel:
        other = {**TOPOLOGY.queue_arguments, "x-delivery-limit": 20}
        await channel.queue_declare(TOPOLOGY.queue, durable=True, arguments=other)
        spool = MemorySpool()
        spool.add(3)
        async with publishing(broker, spool) as publisher:
            await until(lambda: "broker_topology_differs" in caplog.text, "the difference is in the log")
            record = next(record for record in caplog.records if record.message == "broker_topology_differs")
            assert vars(record)["what"] == "x-delivery-limit"
            assert TOPOLOGY.queue in vars(record)["of"]
            await channel.queue_delete(TOPOLOGY.queue)
            assert await publisher.drain(15) == 0


async def test_no_log_line_has_the_password_or_the_words_of_the_driver(caplog: pytest.LogCaptureFixture) -> None:
    spool = MemorySpool()
    spool.add(1)
    with caplog.at_level("DEBUG"):
        async with publishing(Broker([("127.0.0.1", 9)], "u", "very-secret", "/"), spool) as publisher:
            assert await publisher.drain(0.3) == 1
    shown = [f"{record.message} {vars(record)}" for record in caplog.records if record.levelname != "DEBUG"]
    assert any("broker_away" in line for line in shown)
    assert not [line for line in shown if "very-secret" in line or "aiormq" in line]


async def test_the_end_of_an_epoch_and_an_event_that_came_after_all_are_two_messages() -> None:
    window = _Window()
    end = Batch(EPOCH, 7, 0, b"", last_of_epoch=True, highest_seq=6)
    late = Batch(EPOCH, 7, 1, b"{}", last_of_epoch=True, highest_seq=7)
    for batch in (end, late):
        window.sent(batch)
    for batch in (end, late):
        assert window.confirmed(batch) >= 0
    assert window.longest_wait_seconds(0) == 0
