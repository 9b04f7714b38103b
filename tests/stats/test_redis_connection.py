import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.backends.redis import Redis, RedisSentinel
from urlshortener.errors import StoreUnavailable
from urlshortener.stats.redis_connection import Command, RedisConnection, RedisServer, Sentinels

Connect = Callable[..., RedisConnection]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connections, and closes them when the test is over."""
    made: list[RedisConnection] = []

    def make(place: RedisServer | Sentinels) -> RedisConnection:
        made.append(RedisConnection(place))
        return made[-1]

    yield make
    for connection in made:
        await connection.close()


def at(server: Redis) -> RedisServer:
    return RedisServer(server.host, server.port, server.password)


class Actor:
    """A server that speaks Redis' protocol and says what its script tells it to."""

    def __init__(self, **script: bytes) -> None:
        self.script = {
            "ROLE": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
            "INFO": bulk(b"# Server\r\nrun_id:actor\r\nrole:master\r\nconnected_slaves:0\r\n"),
            "CONFIG": b"*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n",
            "CLIENT": b"+OK\r\n",
            **script,
        }
        self.connections = 0
        self.port = 0
        self._asked: set[str] = set()

    async def __aenter__(self) -> "Actor":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                name = (await _command(reader))[0].decode().upper()
                self._asked.add(name)
                writer.write(self.script[name])
        writer.close()

    async def was_asked_for(self, name: str) -> bool:
        return name in self._asked


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    parts = []
    for _ in range(int((await reader.readuntil())[1:])):
        length = int((await reader.readuntil())[1:])
        parts.append((await reader.readexactly(length + 2))[:-2])
    return parts


def sentinel_saying(port: int) -> Actor:
    return Actor(SENTINEL=b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"%d" % port))


async def soon(condition: Callable[[], Awaitable[bool]], within_seconds: float = 5) -> None:
    end = time.monotonic() + within_seconds
    while not await condition():
        assert time.monotonic() < end, f"not within {within_seconds} s"
        await asyncio.sleep(0.02)


async def answers(connection: RedisConnection) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return await connection.read(("ECHO", "here")) == [b"here"]
    return False


async def test_many_calls_share_a_few_lines_and_each_gets_its_own_answer(connect: Connect, own_redis: Redis) -> None:
    connection = connect(at(own_redis))
    echoes = await asyncio.gather(*(connection.read(("ECHO", f"{n}")) for n in range(200)))
    assert echoes == [[b"%d" % n] for n in range(200)]
    assert int(own_redis.ask("INFO", "clients")["connected_clients"]) <= 9  # with the one that asks


async def test_a_call_that_was_cancelled_leaves_no_answer_to_the_next(connect: Connect) -> None:
    async with Actor(SLOW=b"+slow", ECHO=bulk(b"next")) as actor:  # the end of the line is missing
        connection = connect(RedisServer("127.0.0.1", actor.port))
        slow = asyncio.ensure_future(connection.read(("SLOW",)))
        await soon(lambda: actor.was_asked_for("SLOW"))
        slow.cancel()
        assert await connection.read(("ECHO", "next")) == [b"next"]


ANSWERS_OF_A_FAILOVER = {
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "NOREPLICAS": b"-NOREPLICAS Not enough good replicas to write.\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down\r\n",
    "UNBLOCKED": b"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "NOPERM": b"-NOPERM this user has no permissions to run the 'incr' command\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS_OF_A_FAILOVER)
async def test_an_answer_of_a_failover_is_an_outage_and_the_line_is_given_up(connect: Connect, answer: str) -> None:
    async with Actor(INCR=ANSWERS_OF_A_FAILOVER[answer], PING=b"+PONG\r\n") as actor:
        connection = connect(RedisServer("127.0.0.1", actor.port))
        assert await connection.read(("PING",)) == [b"PONG"]
        assert actor.connections == 1
        with pytest.raises(StoreUnavailable, match=r"^The counts cannot be reached\.$"):
            await connection.read(("INCR", "secret"), ("PING",))
        assert await connection.read(("PING",)) == [b"PONG"]
        assert actor.connections == 2


async def test_a_server_that_is_gone_is_an_outage_and_is_found_when_it_is_back(
    connect: Connect, own_redis: Redis
) -> None:
    connection = connect(at(own_redis))
    assert await answers(connection)
    await asyncio.to_thread(own_redis.kill)
    for _ in range(3):
        assert not await answers(connection)
    await asyncio.to_thread(own_redis.start)
    await soon(lambda: answers(connection), within_seconds=3)
    assert connection.generation == 1, "the same address, but another process: what it knows may be older"


async def test_lines_that_a_restart_closed_while_nobody_used_them_fail_nobody(
    connect: Connect, own_redis: Redis
) -> None:
    connection = connect(at(own_redis))
    assert await answers(connection)
    await asyncio.to_thread(own_redis.kill)
    await asyncio.to_thread(own_redis.start)
    assert await answers(connection)


async def test_a_server_that_hangs_ends_every_call_within_seconds(connect: Connect, own_redis: Redis) -> None:
    connection = connect(at(own_redis))
    assert await answers(connection)
    own_redis.pause()
    begin = time.monotonic()
    assert await asyncio.gather(*(answers(connection) for _ in range(20))) == [False] * 20
    assert time.monotonic() - begin < 4
    own_redis.resume()
    await soon(lambda: answers(connection))
    assert connection.generation == 0, "it is the same process"


async def test_a_wrong_password_is_an_outage_without_a_word_of_it(
    connect: Connect, redis_server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect(RedisServer(redis_server.host, redis_server.port, "a wrong password"))
    with pytest.raises(StoreUnavailable) as refused:
        await connection.read(("PING",))
    assert "wrong" not in f"{refused.value!r}{caplog.text}{connection.place!r}"


async def test_a_policy_that_evicts_is_a_loud_warning(
    connect: Connect, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert await answers(connect(at(own_redis)))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == "counts_may_be_evicted"


async def test_a_policy_that_may_not_be_asked_for_is_said_to_be_unknown(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with Actor(CONFIG=b"-NOPERM this user has no permissions\r\n", ECHO=bulk(b"here")) as actor:
        assert await answers(connect(RedisServer("127.0.0.1", actor.port)))
    assert "counts_policy_unknown" in caplog.text


async def test_the_right_policy_is_no_word(
    connect: Connect, redis_server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    assert await answers(connect(at(redis_server)))
    assert not caplog.records


async def test_a_sentinel_that_is_behind_misleads_nobody(connect: Connect, redis_server: Redis) -> None:
    replica = Actor(ROLE=b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n")
    async with (
        replica,
        sentinel_saying(replica.port) as stale,
        sentinel_saying(replica.port) as stale_too,
        sentinel_saying(redis_server.port) as right,
    ):
        hosts = [("127.0.0.1", sentinel.port) for sentinel in (stale, stale_too, right)]
        assert await answers(connect(Sentinels(hosts, "mymaster", redis_server.password)))
        assert replica.connections == 1


async def test_no_sentinel_that_hangs_or_knows_nothing_or_is_gone_stands_in_the_way(
    connect: Connect, redis_server: Redis
) -> None:
    async with (
        Actor(SENTINEL=b"") as hangs,
        Actor(SENTINEL=b"*-1\r\n") as ignorant,
        sentinel_saying(redis_server.port) as right,
    ):
        hosts = [("127.0.0.1", port) for port in (hangs.port, ignorant.port, 1, right.port)]
        begin = time.monotonic()
        assert await answers(connect(Sentinels(hosts, "mymaster", redis_server.password)))
        assert time.monotonic() - begin < 1


async def test_only_replicas_are_an_outage(connect: Connect) -> None:
    replica = Actor(ROLE=b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n")
    async with replica, sentinel_saying(replica.port) as sentinel:
        assert not await answers(connect(Sentinels([("127.0.0.1", sentinel.port)], "mymaster")))


async def test_a_new_master_is_found_within_seconds(connect: Connect, own_redis_sentinel: RedisSentinel) -> None:
    group = own_redis_sentinel
    connection = connect(Sentinels(group.hosts, group.master_name, group.password))
    assert await answers(connection)
    former, run_id = group.master(), connection.run_id
    await asyncio.to_thread(former.kill)
    await soon(lambda: answers(connection), within_seconds=5)
    assert (connection.run_id != run_id, connection.generation) == (True, 1)


async def test_a_wait_for_replicas_holds_up_no_other_write(connect: Connect, redis_sentinel: RedisSentinel) -> None:
    connection = connect(Sentinels(redis_sentinel.hosts, redis_sentinel.master_name, redis_sentinel.password))

    async def write(*commands: Command) -> float:
        async with connection.writing() as line:
            await line.ask(*commands)
        return time.monotonic()

    waited, written = await asyncio.gather(write(("INCR", "a"), ("WAIT", 9, 500)), write(("INCR", "b")))
    assert written < waited - 0.1


async def test_replicas_that_go_and_come_are_noticed(connect: Connect, own_redis_sentinel: RedisSentinel) -> None:
    group = own_redis_sentinel
    connection = connect(Sentinels(group.hosts, group.master_name, group.password))

    async def replicas() -> int:
        async with connection.writing() as line:
            await line.ask_for_replicas()
            return line.replicas

    async def is_one() -> bool:
        return await replicas() == 1

    assert await replicas() == 2
    await asyncio.to_thread(group.replicas()[0].kill)
    await soon(is_one)
