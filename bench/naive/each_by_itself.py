"""Each event by itself: a message, confirmed, for each; a transaction in Redis for each. 64 at once."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import aiormq
from redis.asyncio import Redis

from bench.harness import traffic

_AT_ONCE = 64
_EVENT = b'{"event_id":"%s","code":"cat","accessed_at":"2026-11-23T10:00:00Z","user_agent":"%s"}' % (
    b"0" * 36,
    b"a" * 80,
)


async def _rate(one: Callable[[int], Awaitable[object]], seconds: float) -> float:
    """How many a second, when so many are under way all the time."""
    numbers, end_at = itertools.count(), time.monotonic() + seconds

    async def again_and_again() -> int:
        done = 0
        while time.monotonic() < end_at:
            await one(next(numbers))
            done += 1
        return done

    return sum(await asyncio.gather(*(again_and_again() for _ in range(_AT_ONCE)))) / seconds


async def publish(url: str, seconds: float) -> float:
    """Messages a second, into a quorum queue, each with one event and its own confirm."""
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    await channel.queue_declare("naive", durable=True, arguments={"x-queue-type": "quorum"})
    properties = aiormq.spec.Basic.Properties(delivery_mode=2)
    try:
        return await _rate(
            lambda _: channel.basic_publish(_EVENT, routing_key="naive", properties=properties, mandatory=True), seconds
        )
    finally:
        await channel.queue_delete("naive")
        await connection.close()


async def count(port: int, password: str, database: int, seconds: float) -> float:
    """Events a second: whether it is known, and five counters, in one MULTI for each."""
    codes = traffic.codes(traffic.CODES)
    async with Redis(port=port, password=password, db=database) as redis:

        async def one(number: int) -> None:
            code = codes[number % len(codes)]
            async with redis.pipeline(transaction=True) as pipeline:
                pipeline.set(f"seen:{number}", 1, nx=True, ex=3600)
                pipeline.hincrby(f"code:{code}", "count", 1)
                pipeline.hset(f"code:{code}", "last", number)
                pipeline.pfadd(f"visitors:{code}", number % 10_000)
                pipeline.hincrby(f"hours:{code}", "0", 1)
                pipeline.zincrby("most-followed", 1, code)
                await pipeline.execute()

        return await _rate(one, seconds)
