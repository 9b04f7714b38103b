"""The connections to the Redis that takes writes, wherever Sentinel has put it, and what its errors mean."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from urlshortener.errors import StoreUnavailable
from urlshortener.telemetry import LOG, STATS_AVAILABLE, STATS_FAILOVERS

_SENTINEL_SECONDS = 0.5
_CONNECT_SECONDS = 0.5
_ANSWER_SECONDS = 1.0  # for each answer; WAIT's own limit must stay below it
_CALL_SECONDS = 3.0  # for all of a call: its place in the row, finding the master, connecting, the answers
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_LINES_FOR_WRITES = 4
_LINES_FOR_READS = 4
_REPLICAS_ASKED_EVERY_SECONDS = 2.0

Command = Sequence[str | bytes | int]
Reply = Any  # what the server answered: bytes, int, None, or a list of these


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One Redis at an address that does not change."""

    host: str
    port: int
    password: str = field(default="", repr=False)
    user: str = ""
    database: int = 0


@dataclass(frozen=True, slots=True)
class Sentinels:
    """A Redis master that moves, and those who know where it is. User, password and database are the master's."""

    hosts: Sequence[tuple[str, int]]
    master: str  # its name among the sentinels
    password: str = field(default="", repr=False)
    user: str = ""
    database: int = 0


class FunctionMissing(StoreUnavailable):
    """The server does not have the function library: nothing was done. If it has not after it was loaded, it is another
    server by now, and to the caller as good as away."""


class Line:
    """One connection to a server that was the master when it was opened. After any error it is of no more use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.run_id = ""
        self.generation = 0
        self.has_served = False
        self.replicas = 0  # that are online, as of `replicas_known_at`
        self.replicas_known_at = float("-inf")

    async def exchange(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        """Send them all, then read an answer to each."""
        await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        replies: list[Reply | ResponseError] = []
        for _ in commands:
            try:
                replies.append(await self._connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies

    async def ask(self, *commands: Command) -> list[Reply]:
        """Send them in one go; the first error among the answers is raised."""
        replies = await self.exchange(commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise FunctionMissing if "Function not found" in str(reply) else reply
        return replies

    async def ask_for_replicas(self) -> None:
        """Bring `replicas` up to date, if that is due."""
        now = asyncio.get_running_loop().time()
        if now - self.replicas_known_at >= _REPLICAS_ASKED_EVERY_SECONDS:
            (text,) = await self.ask(("INFO", "replication"))
            self.learn_replication(info_of(text))

    def learn_replication(self, info: dict[str, str]) -> None:
        if info.get("role") != "master":
            raise _NoMaster
        self.replicas = sum("state=online" in value for name, value in info.items() if name.startswith("slave"))
        self.replicas_known_at = asyncio.get_running_loop().time()

    async def is_quiet(self) -> bool:
        """Whether it may be used again: open, and nothing came that nobody asked for."""
        with contextlib.suppress(RedisError, OSError):
            return not await self._connection.can_read()
        return False

    async def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)


class _NoMaster(RedisError):
    """No server was found that is a master."""


class RedisConnection:
    """A few lines to the master, opened when they are wanted; each call has one to itself.

    A server answers no further command on a line where a WAIT hangs. So a batch that waits for replicas keeps its
    line, and the next batch takes another; reads have a few of their own and stand behind no write.

    Every error drops all idle lines, and the next call looks for the master again: at once, then with growing pauses.
    """

    def __init__(self, place: RedisServer | Sentinels) -> None:
        self.place = place
        self.run_id = ""  # of the Redis process that answered last
        self.generation = 0  # grows when that was another process than before: what it knows may be older
        self._idle: list[Line] = []
        self._for_writes = asyncio.Semaphore(_LINES_FOR_WRITES)
        self._for_reads = asyncio.Semaphore(_LINES_FOR_READS)
        self._pause_seconds = 0.0
        self._closed = False

    async def read(self, *commands: Command) -> list[Reply]:
        """The master's answers, in one round trip."""
        async with self._line(self._for_reads) as line:
            return await line.ask(*commands)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[Line]:
        """A line for a write, for as long as its answer takes."""
        async with self._line(self._for_writes) as line:
            yield line

    async def load(self, library: str) -> None:
        """Put a library of functions on the master, from where it reaches the replicas and the disk."""
        async with self._line(self._for_writes) as line:
            (reply,) = await line.exchange([("FUNCTION", "LOAD", library)])
            if isinstance(reply, ResponseError) and "already exists" not in str(reply):
                raise reply

    async def close(self) -> None:
        self._closed = True
        await self._drop_idle()

    @contextlib.asynccontextmanager
    async def _line(self, row: asyncio.Semaphore) -> AsyncIterator[Line]:
        line: Line | None = None
        try:
            async with asyncio.timeout(_CALL_SECONDS), row:
                line = await self._take()
                yield line
        except FunctionMissing:
            assert line is not None  # only a server can say so, after it answered all that was asked
            await self._give_back(line)
            raise
        except (RedisError, OSError, TimeoutError) as error:
            await self._give_up(line, error)
            raise StoreUnavailable("The counts cannot be reached.") from None
        except BaseException:  # cancelled: an answer may be on its way that nobody will read
            if line is not None:
                await line.close()
            raise
        else:
            STATS_AVAILABLE.set(1)
            self._pause_seconds = 0.0
            line.has_served = True
            await self._give_back(line)

    async def _take(self) -> Line:
        while self._idle:
            line = self._idle.pop()
            if await line.is_quiet():
                return line
            await line.close()
        await asyncio.sleep(self._pause_seconds)
        return await self._open()

    async def _give_back(self, line: Line) -> None:
        if line.generation == self.generation and not self._closed:
            self._idle.append(line)
        else:
            await line.close()

    async def _give_up(self, line: Line | None, error: Exception) -> None:
        STATS_AVAILABLE.set(0)
        LOG.warning("counts_unreachable", extra={"reason": _reason(error)})
        if line is not None:
            await line.close()
        if line is None or not line.has_served:
            self._pause_seconds = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _open(self) -> Line:
        """A line to the first candidate that says itself that it is the master."""
        failure: Exception = _NoMaster()
        for host, port in await self._candidates():
            line = Line(connection_to(host, port, self.place))
            try:
                await self._verify(line)
            except (RedisError, OSError, TimeoutError) as error:
                await line.close()
                failure = error
            except BaseException:
                await line.close()
                raise
            else:
                return line
        raise failure

    async def _candidates(self) -> list[tuple[str, int]]:
        match self.place:
            case RedisServer(host, port):
                return [(host, port)]
            case Sentinels(hosts, master):
                answers = await asyncio.gather(*(_ask_sentinel(host, port, master) for host, port in hosts))
                # A sentinel may be behind: what most of them say is tried first.
                return [address for address, _ in Counter(filter(None, answers)).most_common()]

    async def _verify(self, line: Line) -> None:
        role, server, replication = await line.ask(("ROLE",), ("INFO", "server"), ("INFO", "replication"))
        if role[0] != b"master":
            raise _NoMaster
        line.learn_replication(info_of(replication))
        line.run_id = info_of(server)["run_id"]
        if line.run_id != self.run_id:
            self._meet(line.run_id)
            await _check_policy(line)
        line.generation = self.generation

    def _meet(self, run_id: str) -> None:
        if self.run_id:
            self.generation += 1
            STATS_FAILOVERS.inc()
            LOG.warning("counts_moved", extra={"generation": self.generation})
        self.run_id = run_id


def connection_to(host: str, port: int, place: RedisServer | Sentinels) -> Connection:
    return Connection(
        host=host,
        port=port,
        db=place.database,
        username=place.user or None,
        password=place.password or None,
        protocol=2,
        socket_timeout=_ANSWER_SECONDS,
        socket_connect_timeout=_CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),  # what may have been done already is for the caller to repeat, by its identity
    )


async def _ask_sentinel(host: str, port: int, master: str) -> tuple[str, int] | None:
    """Where this sentinel believes the master to be; None if it says nothing in time."""
    line = Line(connection_to(host, port, RedisServer(host, port)))
    try:
        async with asyncio.timeout(_SENTINEL_SECONDS):
            (address,) = await line.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master))
        return (address[0].decode(), int(address[1])) if address else None
    except (RedisError, OSError, TimeoutError):
        return None
    finally:
        await line.close()


def info_of(text: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


async def _check_policy(line: Line) -> None:
    (reply,) = await line.exchange([("CONFIG", "GET", "maxmemory-policy")])
    if isinstance(reply, ResponseError) or len(reply) != 2:
        LOG.warning("counts_policy_unknown")
    elif reply[1] != b"noeviction":
        LOG.error(
            "counts_may_be_evicted",
            extra={"maxmemory_policy": reply[1].decode()},
        )


def _reason(error: Exception) -> str:
    """The kind of error; its text may show addresses and arguments."""
    if isinstance(error, ResponseError):
        word = getattr(error, "status_code", None) or str(error).partition(" ")[0]
        if word.isupper() and word.isalpha():
            return str(word)
    return type(error).__name__
