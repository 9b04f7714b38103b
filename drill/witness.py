"""The second witness: a queue of the drill's own, bound to the exchange beside the one that is counted from.

What it holds was published, whatever became of the counts. It is durable and on all nodes, like the other.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

import aiormq
import msgspec
from aiormq.abc import AbstractChannel, DeliveredMessage

from drill.servers import PASSWORD

QUEUE = "drill_witness"
_QUIET_SECONDS = 1.0


class _Identity(msgspec.Struct):
    epoch: str
    seq: int


_DECODER = msgspec.json.Decoder(list[_Identity])


def watch(addresses: Sequence[str]) -> None:
    """From now on. What an earlier one left is gone."""
    asyncio.run(_watch(addresses))


def heard(addresses: Sequence[str]) -> Mapping[str, set[int]]:
    """epoch -> numbers, of all that was published since; and stop watching."""
    return asyncio.run(_heard(addresses))


@contextlib.asynccontextmanager
async def _channel(addresses: Sequence[str]) -> AsyncIterator[AbstractChannel]:
    connection = await aiormq.connect(f"amqp://app:{PASSWORD}@{addresses[0]}:5672/")
    try:
        yield await connection.channel()
    finally:
        await connection.close()


async def _watch(addresses: Sequence[str]) -> None:
    async with _channel(addresses) as channel:
        await channel.queue_delete(QUEUE)
        await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.queue_bind(QUEUE, "events", "access.event")


async def _heard(addresses: Sequence[str]) -> Mapping[str, set[int]]:
    numbers: dict[str, set[int]] = defaultdict(set)
    arrived = asyncio.Event()

    async def hear(message: DeliveredMessage) -> None:
        body = message.body if message.body.startswith(b"[") else b"[%b]" % message.body
        for identity in _DECODER.decode(body):
            numbers[identity.epoch].add(identity.seq)
        arrived.set()

    async with _channel(addresses) as channel:
        consuming = await channel.basic_consume(QUEUE, hear, no_ack=True)
        with contextlib.suppress(TimeoutError):
            while True:
                arrived.clear()
                await asyncio.wait_for(arrived.wait(), _QUIET_SECONDS)
        assert consuming.consumer_tag
        await channel.basic_cancel(consuming.consumer_tag)
        await channel.queue_delete(QUEUE)
    return dict(numbers)
