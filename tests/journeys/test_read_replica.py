"""Two services whose links are read from a streaming replica: what is asked of whom, and what happens without one."""

import asyncio
import collections
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.journeys.load import visit
from tests.journeys.systems import System, two_services
from tests.journeys.test_the_road import counted, made, until_counted

_READERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'urlshortener links'"


@pytest.fixture
def system(
    postgresql_pair: PostgresqlPair, rabbitmq: Rabbitmq, vhost: str, redis_server: Redis, redis_database: int
) -> Iterator[System]:
    """It loads no links at its start, so that a link is cold after a restart."""
    primary, replica = postgresql_pair.members
    database = primary.fresh_database()
    read_url = f"postgresql://{replica.user}@{replica.host}:{replica.port}/{database}"
    more = {"LINKS_READ_URL": read_url, "CACHE_WARM_LINKS": "0"}
    system = two_services(primary, database, rabbitmq, vhost, redis_server, redis_database, more)
    postgresql_pair.wait_until_replicating()
    try:
        system.start()
        yield system
    finally:
        system.close()


def cold_links(system: System, pair: PostgresqlPair, count: int) -> list[str]:
    """Links that the replica has, and no process remembers."""
    codes = [made(system, f"https://example.com/{number}") for number in range(count)]
    pair.wait_until_replicating()
    system.shortener_process.stop()
    system.shortener_process.start()
    return codes


async def follow(system: System, codes: list[str]) -> None:
    visits = await visit(system.shortener, codes)
    assert not visits.refused
    assert visits.redirected == collections.Counter(codes)


async def until_answered(url: str, status: int, within_seconds: float = 10) -> None:
    end = time.monotonic() + within_seconds
    async with httpx.AsyncClient(timeout=10) as client:
        while (answer := await client.get(url)).status_code != status:
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < end, f"{url} is no {status} within {within_seconds} s"
            await asyncio.sleep(0.05)


def readers_of(server: Postgresql) -> int:
    return int(server.run_sql(_READERS))


async def test_links_are_read_from_the_replica_and_the_road_goes_on_without_it(
    system: System, postgresql_pair: PostgresqlPair
) -> None:
    replica = postgresql_pair.replica
    first, second = (codes := cold_links(system, postgresql_pair, 20))[:10], codes[10:]
    await follow(system, first * 5)
    assert readers_of(replica) > 0
    await asyncio.to_thread(replica.kill)
    await follow(system, (first + second) * 5)
    await until_answered(f"{system.shortener}/nobody12", 404)  # the primary says so
    new = made(system)
    assert counted(system, new) == 0
    await follow(system, [new])
    expected = dict.fromkeys(first, 10) | dict.fromkeys(second, 5) | {new: 1}
    assert await until_counted(system, expected, 20) == expected


async def test_what_the_replica_does_not_have_yet_is_known_at_both_doors(
    system: System, postgresql_pair: PostgresqlPair
) -> None:
    await asyncio.to_thread(postgresql_pair.replica.run_sql, "SELECT pg_wal_replay_pause()")
    code = made(system)
    assert counted(system, code) == 0  # analytics has asked the replica, then the primary
    system.shortener_process.stop()
    system.shortener_process.start()
    await follow(system, [code])
    await asyncio.to_thread(postgresql_pair.replica.run_sql, "SELECT pg_wal_replay_resume()")


async def test_without_the_primary_the_replica_answers_what_it_has_and_nobody_is_told_that_a_link_is_none(
    system: System, postgresql_pair: PostgresqlPair
) -> None:
    codes = cold_links(system, postgresql_pair, 10)
    await follow(system, codes[:1])
    await asyncio.to_thread(postgresql_pair.primary.kill)
    await follow(system, codes)
    for door in (f"{system.shortener}/nobody12", f"{system.analytics}/api/v1/analytics/nobody12"):
        answer = httpx.get(door, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert "retry-after" in answer.headers
    await asyncio.to_thread(postgresql_pair.primary.start)
    await until_answered(f"{system.shortener}/nobody12", 404)
    expected = {codes[0]: 2} | dict.fromkeys(codes[1:], 1)
    assert await until_counted(system, expected, 20) == expected
