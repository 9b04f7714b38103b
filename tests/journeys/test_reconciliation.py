"""One message goes missing on purpose, and is missed. That nothing else ever is: test_bad_days.py."""

import asyncio
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import aiormq
import httpx
import pytest

from tests.backends.postgresql import Postgresql
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.journeys.systems import System, two_services
from tests.journeys.test_the_road import made, until_counted


@pytest.fixture
def vhost(rabbitmq: Rabbitmq) -> str:
    return rabbitmq.fresh_vhost()


@pytest.fixture
def system(postgresql: Postgresql, rabbitmq: Rabbitmq, vhost: str, redis_server: Redis) -> Iterator[System]:
    made = two_services(
        postgresql, postgresql.fresh_database(), rabbitmq, vhost, redis_server, redis_server.fresh_database()
    )
    try:
        made.start()
        yield made
    finally:
        made.close()


async def follow(system: System, code: str, times: int) -> None:
    """One after another, each in a message of its own."""
    async with httpx.AsyncClient(base_url=system.shortener) as client:
        for _ in range(times):
            assert (await client.get(f"/{code}")).status_code == 307
            await asyncio.sleep(0.03)


async def lose_a_message(rabbitmq: Rabbitmq, vhost: str) -> int:
    """Take the oldest from the queue; returns how many events were in it."""
    connection = await aiormq.connect(
        f"amqp://{rabbitmq.user}:{rabbitmq.password}@{rabbitmq.host}:{rabbitmq.port}/{vhost}"
    )
    channel = await connection.channel()
    message = None
    async with asyncio.timeout(10):
        while message is None or message.delivery_tag is None:
            message = await channel.basic_get("access_logs", no_ack=True)
    await connection.close()
    assert message.header.properties.headers
    return int(str(message.header.properties.headers["count"]))


async def test_a_message_that_is_lost_is_missed_after_a_kill_of_who_counts(
    system: System, rabbitmq: Rabbitmq, vhost: str
) -> None:
    code = made(system, "https://example.com/")
    hours = {datetime.now(UTC).hour}
    await asyncio.to_thread(system.analytics_process.kill)
    await follow(system, code, 6)
    lost = await lose_a_message(rabbitmq, vhost)
    await asyncio.to_thread(system.analytics_process.start)
    assert await until_counted(system, {code: 6 - lost}, 20) == {code: 6 - lost}

    answer = await asyncio.to_thread(system.analytics_process.ask, "reconcile", "--older-than", "0")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    ((host, hour, missing),) = re.findall(r"^  (\S+)  \S+ (\d+):00 UTC  (\d+) missing", answer.stdout, re.MULTILINE)
    assert (host, int(missing)) == (os.uname().nodename, lost)
    assert int(hour) in hours | {datetime.now(UTC).hour}
