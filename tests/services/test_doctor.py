"""What `urlshortener doctor` says of real servers, in each state that it has words for."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import aiormq
import pytest

from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis, RedisSentinel
from tests.journeys.systems import settings_of
from urlshortener.events.amqp import AmqpSource, Broker, Topology
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.events.spool import Spool
from urlshortener.links.link import Draft
from urlshortener.links.postgresql import migrate, open_store
from urlshortener.links.postgresql_connector import Servers
from urlshortener.services import doctor
from urlshortener.settings import Settings
from urlshortener.stats.progress import Course
from urlshortener.stats.redis import RedisStats
from urlshortener.stats.redis_connection import RedisConnection, RedisServer

NOBODY = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def logs_are_back() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def environment(
    postgresql: Postgresql,
    database: str,
    rabbitmq: Rabbitmq,
    vhost: str,
    redis_server: Redis,
    redis_database: int,
    tmp_path: Path,
) -> dict[str, str]:
    settings = settings_of(postgresql, database, rabbitmq, vhost, redis_server, redis_database)
    return {**settings, "DATA_DIR": str(tmp_path)}


async def said(environment: dict[str, str], code: str | None = None) -> tuple[str, int]:
    began = time.monotonic()
    answer = await doctor.examined(Settings.read(environment), code)
    assert time.monotonic() - began < 40
    return answer


def has(text: str, state: str, *words: str) -> bool:
    """Whether a finding of that state has these words."""
    return any(line.startswith(state) and all(word in line for word in words) for line in text.splitlines())


@contextlib.asynccontextmanager
async def consumed(rabbitmq: Rabbitmq, vhost: str) -> AsyncIterator[None]:
    """Somebody takes messages from the queue, and keeps them."""
    source = AmqpSource(Broker(((rabbitmq.host, rabbitmq.port),), rabbitmq.user, rabbitmq.password, vhost), Topology())
    async with source.deliveries():
        while not source.is_connected:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)  # until the queue knows its consumer
        yield


def servers(postgresql: Postgresql, database: str) -> Servers:
    return Servers(((postgresql.host, postgresql.port),), postgresql.user, postgresql.password, database)


async def test_where_all_is_well_it_says_so_and_why_a_count_is_what_it_is(
    environment: dict[str, str], postgresql: Postgresql, database: str, rabbitmq: Rabbitmq, vhost: str
) -> None:
    await migrate(servers(postgresql, database))
    store = open_store(servers(postgresql, database))
    now = datetime.now(UTC)

    await store.add_many([Draft(uuid4(), "cat", "https://example.com/", now)])
    await store.close()
    async with consumed(rabbitmq, vhost):
        text, code = await said(environment, "cat")
        assert code == 0, text
        assert has(text, "ok", "PostgreSQL", "the primary") and has(text, "ok", "RabbitMQ", "answers")
        assert has(text, "ok", "queue access_logs", "0 messages wait, 1 consumers")
        assert has(text, "ok", "Redis", "the master") and has(text, "ok", "reconciliation")
        assert has(text, "ok", "count of cat", "no access; the link is there")
        assert has(text, "ok", "count of cat", "nobody has followed it")
        assert has((await said(environment, "dog"))[0], "WRONG", "count of dog", "there is no such link")
        assert has((await said(environment, "a b"))[0], "WRONG", "this can be no code")


async def test_what_is_wrong_with_a_broker_is_said(environment: dict[str, str], rabbitmq: Rabbitmq, vhost: str) -> None:
    text, code = await said(environment)
    assert code == 1
    assert has(text, "WRONG", "the tables are missing"), "nobody has migrated"
    assert has(text, "WRONG", "queue access_logs", "0 consumers: nothing is counted")

    address = f"amqp://{rabbitmq.user}:{rabbitmq.password}@{rabbitmq.host}:{rabbitmq.port}/{vhost}"
    connection = await aiormq.connect(address)
    channel = await connection.channel()
    await channel.basic_publish(b"{}", routing_key="access_logs.dead")
    await connection.close()
    assert has((await said(environment))[0], "WRONG", "queue access_logs.dead", "1 dead letters")

    other = await aiormq.connect(address)
    channel = await other.channel()
    await channel.queue_declare("taken", durable=True)
    await other.close()
    assert has((await said({**environment, "EVENTS_QUEUE": "taken"}))[0], "WRONG", "topology differs", "queue 'taken'")
    await asyncio.to_thread(rabbitmq.raise_memory_alarm)
    try:
        assert has((await said(environment))[0], "WRONG", "RabbitMQ", "takes nothing")
    finally:
        await asyncio.to_thread(rabbitmq.clear_memory_alarm)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("LINKS_URL", lambda url: url.replace("@127.0.0.1:", "@127.0.0.1:9,127.0.0.1:"), ("note", "nobody listens")),
        ("LINKS_URL", lambda url: f"{url}x", ("WRONG", "it has no such database")),
        ("LINKS_PASSWORD", lambda _: "wrong", ("WRONG", "refuses the user or the password")),
        ("EVENTS_PASSWORD", lambda _: "wrong", ("WRONG", "refuses the user or the password")),
        ("EVENTS_URL", lambda _: f"amqp://{NOBODY}/x", ("WRONG", "RabbitMQ", "does not answer")),
        ("STATS_PASSWORD", lambda _: "wrong", ("WRONG", "refuses the user or the password")),
        ("STATS_URL", lambda _: f"redis://{NOBODY}/0", ("WRONG", "no master answers")),
        ("LINKS_READ_URL", lambda _: f"postgresql://x@{NOBODY}/x", ("note", "(reads)", "nobody listens")),
    ],
)
async def test_a_server_that_does_not_answer_or_does_not_let_us_in_is_named(
    environment: dict[str, str], name: str, change: object, words: tuple[str, ...]
) -> None:
    assert callable(change)
    text, _ = await said({**environment, name: change(environment.get(name, ""))})
    assert has(text, *words), text
    assert "wrong\n" not in text and "Traceback" not in text


async def test_what_is_wrong_with_counts_is_said(
    environment: dict[str, str], redis_server: Redis, redis_database: int
) -> None:
    connection = RedisConnection(
        RedisServer(redis_server.host, redis_server.port, redis_server.password, database=redis_database)
    )
    store = RedisStats(connection, retention=timedelta(days=1))
    await store.record([AccessEvent(EventId("epoch", 0), "cat", datetime.now(UTC))])
    lost = Course("pod-1", 9, True, int(time.time()) - 90)
    await connection.read(("HSET", "us:progress", "epoch", lost.packed()))
    redis_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis_server.ask("CONFIG", "SET", "appendonly", "no")
    try:
        text, code = await said(environment, "cat")
    finally:
        redis_server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        redis_server.ask("CONFIG", "SET", "appendonly", "yes")
        await store.close()
    redis_server.ask("CONFIG", "SET", "maxmemory", str(int(1.02 * redis_server.ask("INFO", "memory")["used_memory"])))
    try:
        assert has((await said(environment))[0], "WRONG", "bytes are used")
    finally:
        redis_server.ask("CONFIG", "SET", "maxmemory", "0")
    assert code == 1
    assert has(text, "WRONG", "may throw counts away") and has(text, "WRONG", "keeps no append-only file")
    assert has(text, "WRONG", "9 accesses that were known a minute ago are not counted")
    assert has(text, "note", "count of cat", "may keep accesses from being counted")


async def test_what_sentinels_say_is_said(environment: dict[str, str], redis_sentinel: RedisSentinel) -> None:
    group = redis_sentinel
    hosts = ",".join(f"{host}:{port}" for host, port in group.hosts)
    there = {"STATS_PASSWORD": group.password, "STATS_URL": f"redis+sentinel://{hosts}/{group.master_name}/0"}
    text, _ = await said({**environment, **there})
    assert has(text, "ok", "Sentinel", "is the master") and has(text, "ok", "a replica that follows"), text
    assert not has(text, "WRONG", "Sentinel")
    text, _ = await said({**environment, **there, "STATS_URL": f"redis+sentinel://{hosts}/another/0"})
    assert has(text, "WRONG", "does not know the master of STATS_URL")
    text, _ = await said(
        {**environment, **there, "STATS_URL": f"redis+sentinel://{NOBODY},{hosts}/{group.master_name}/0"}
    )
    assert has(text, "note", f"Sentinel {NOBODY}", "nobody listens")


async def test_what_lies_in_a_spool_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    alive, dead = Spool(folder, 1 << 20), Spool(folder, 1 << 20)
    for spool in (alive, dead):
        await spool.append("cat", datetime.now(UTC), None, None, None, None)
    text, _ = await said(environment)
    assert has(text, "ok", "spool", "in 2 epochs") and not has(text, "WRONG", "spool")

    dead._own.let_go()
    (folder / "quarantine").mkdir()
    (folder / "quarantine" / "x-0-0.damaged").write_bytes(b"?")
    (folder / "dead-letters.jsonl").write_text("{}\n{}\n")
    text, _ = await said({**environment, "SPOOL_MAX_BYTES": "300"})
    assert has(text, "WRONG", "spool", "1 epochs of processes that are gone")
    assert has(text, "WRONG", "spool", "1 damaged or week-old parts") and has(text, "WRONG", "spool", "2 dead letters")
    assert has(text, "WRONG", "spool", "nearly full")
    alive.close()


async def test_a_primary_that_waits_for_a_standby_that_is_gone_and_a_replica_alone_are_named(
    environment: dict[str, str], synchronous_postgresql_pair: PostgresqlPair
) -> None:
    pair = synchronous_postgresql_pair
    primary, standby = pair.primary, pair.replica
    address = "postgresql://{0.user}@{0.host}:{0.port}/postgres"
    there = {
        **environment,
        "LINKS_URL": address.format(primary),
        "LINKS_READ_URL": address.format(standby),
        "LINKS_PASSWORD": primary.password,
    }
    text, _ = await said(there)
    assert has(text, "ok", "the primary, 1 replicas") and has(text, "ok", "(reads)", "a replica that receives"), text
    text, _ = await said({**there, "LINKS_URL": address.format(standby)})
    assert has(text, "WRONG", "none of the hosts of LINKS_URL is a primary")
    await asyncio.to_thread(standby.kill)
    text, _ = await said(there)
    assert has(text, "WRONG", "it commits only with a standby, and none is connected"), text


async def test_one_process_without_any_server_is_looked_at_too(tmp_path: Path) -> None:
    text, code = await said({"DATA_DIR": str(tmp_path)}, "cat")
    assert has(text, "note", "links", "is not there yet") and has(
        text, "ok", "events", "by the process that wrote them"
    )
    assert code == 1 and has(text, "WRONG", "count of cat", "there is no such link")
