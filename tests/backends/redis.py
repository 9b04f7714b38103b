"""Redis, alone and under Sentinel."""

import contextlib
import itertools
import secrets
import shutil
from collections.abc import Sequence
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.backends.ports import free_port
from tests.backends.server import Server, ServerMissing
from tests.backends.waiting import wait_until

_PASSWORD = secrets.token_hex(8)


class _AnyRedis(Server):
    """What redis-server and redis-sentinel have in common: a file of settings that they rewrite themselves."""

    program: str
    package: str
    password: str

    def __init__(self, name: str, settings: Sequence[str]) -> None:
        if not shutil.which(self.program):
            raise ServerMissing(self.package)
        super().__init__(name)
        self.port = free_port()
        self.settings = self.folder / "settings"
        self.settings.write_text(
            "\n".join(["bind 127.0.0.1", f"port {self.port}", f"dir {self.folder}", *settings, ""])
        )

    def ask(self, *command: str) -> Any:
        """The answer to one command, from a connection of its own."""
        with self._client() as client:
            return client.execute_command(*command)

    def _client(self) -> redis.Redis:
        return redis.Redis(
            self.host,
            self.port,
            password=self.password or None,
            socket_timeout=2,
            socket_connect_timeout=2,
            decode_responses=True,
            retry=Retry(NoBackoff(), 1),  # once: a Sentinel closes all connections to a Redis whose role it changes
        )

    def _command(self) -> Sequence[str]:
        return [self.program, str(self.settings)]

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):  # LOADING is a ConnectionError too
            return bool(self.ask("PING"))
        return False


class Redis(_AnyRedis):
    """A Redis that keeps what it was told: append-only file, no eviction, a password."""

    program = "redis-server"
    package = "redis-server"
    password = _PASSWORD
    databases = 1000

    def __init__(self, name: str = "redis", *, replica_of: "Redis | None" = None) -> None:
        settings = [
            f"requirepass {self.password}",
            f"masterauth {self.password}",
            f"databases {self.databases}",
            "appendonly yes",
            "maxmemory-policy noeviction",
            'save ""',
            "repl-diskless-sync-delay 0",
            "enable-debug-command local",
        ]
        if replica_of:
            settings.append(f"replicaof {replica_of.host} {replica_of.port}")
        super().__init__(name, settings)
        self._numbers = itertools.cycle(range(1, self.databases))

    def fresh_database(self) -> int:
        """The number of an empty database."""
        number = next(self._numbers)
        with self._client() as client:
            client.execute_command("SELECT", number)
            client.execute_command("FLUSHDB")
        return number

    @property
    def is_master(self) -> bool:
        return bool(self.ask("ROLE")[0] == "master")


class Sentinel(_AnyRedis):
    """One Sentinel. It asks for no password itself, and knows that of the Redis it watches."""

    program = "redis-sentinel"
    package = "redis-sentinel"
    password = ""

    def __init__(self, name: str) -> None:
        self.identity = secrets.token_hex(20)
        super().__init__(name, [f"sentinel myid {self.identity}"])

    def watch(self, master_name: str, members: Sequence[Redis], others: Sequence["Sentinel"]) -> None:
        """Say what it is to watch, before its first start. Told who there is, it need not spend seconds finding out."""
        master, *replicas = members
        lines = [
            f"sentinel monitor {master_name} {master.host} {master.port} 2",
            f"sentinel auth-pass {master_name} {master.password}",
            f"sentinel down-after-milliseconds {master_name} 1000",
            f"sentinel failover-timeout {master_name} 3000",
            f"sentinel parallel-syncs {master_name} 2",
            *(f"sentinel known-replica {master_name} {replica.host} {replica.port}" for replica in replicas),
            *(f"sentinel known-sentinel {master_name} {each.host} {each.port} {each.identity}" for each in others),
        ]
        with self.settings.open("a") as settings:
            settings.write("\n".join([*lines, ""]))

    def master_port(self, master_name: str) -> int:
        """Of the master that this one believes in."""
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master_name)[1])

    def could_replace(self, master_name: str, replicas: int, others: int) -> bool:
        """Whether it is connected to everybody, and all replicas are candidates in its eyes."""
        with contextlib.suppress(redis.RedisError):
            state = self.ask("SENTINEL", "MASTER", master_name)
            candidates = [
                each
                for each in self.ask("SENTINEL", "REPLICAS", master_name)
                if each["flags"] == "slave" and each.get("master-link-status") == "ok"
            ]
            return (
                str(self.ask("SENTINEL", "CKQUORUM", master_name)).startswith("OK")
                and int(state["num-other-sentinels"]) == others
                and len(candidates) == int(state["num-slaves"]) == replicas
            )
        return False


class RedisSentinel:
    """A master and two replicas, watched by three Sentinels: a master that is gone for a second is replaced."""

    master_name = "mymaster"
    password = _PASSWORD

    def __init__(self) -> None:
        first = Redis("redis-one")
        self.members = [first, *(Redis(f"redis-{which}", replica_of=first) for which in ("two", "three"))]
        self.sentinels = [Sentinel(f"sentinel-{which}") for which in ("one", "two", "three")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """Where the Sentinels are."""
        return [(sentinel.host, sentinel.port) for sentinel in self.sentinels]

    def start(self) -> None:
        """Start all of them. When this returns, any single one may be killed."""
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait_until_it_answers()
        wait_until(lambda: self._replicas_online() == 2, "both replicas follow the master", within_seconds=20)
        for sentinel in self.sentinels:
            sentinel.watch(self.master_name, self.members, [each for each in self.sentinels if each is not sentinel])
            sentinel.launch()
        for sentinel in self.sentinels:
            sentinel.wait_until_it_answers()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Until any single one may be killed. After a failover that takes some 20 s: Sentinels look every 10 s."""

        def whole() -> bool:
            replicas, others = len(self.members) - 1, len(self.sentinels) - 1
            return self._replicas_online() == replicas and all(
                sentinel.could_replace(self.master_name, replicas, others) for sentinel in self.sentinels
            )

        wait_until(whole, "Redis and its Sentinels are whole", within_seconds=30, every_seconds=0.05)

    def master(self) -> Redis:
        """Who takes writes, in the eyes of most Sentinels that answer, and in its own."""
        believed = []
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.RedisError):
                if sentinel.is_running:
                    believed.append(sentinel.master_port(self.master_name))
        for member in self.members:
            if believed.count(member.port) * 2 > len(self.sentinels) and member.is_running and member.is_master:
                return member
        raise AssertionError("there is no master now")

    def replicas(self) -> list[Redis]:
        master = self.master()
        return [member for member in self.members if member is not master]

    def wait_for_a_master_other_than(self, former: Redis) -> Redis:
        """The new master, after the former one was killed or paused."""

        def replaced() -> bool:
            try:
                return self.master() is not former
            except (AssertionError, redis.RedisError):
                return False

        wait_until(replaced, "another master", within_seconds=20, every_seconds=0.05)
        return self.master()

    def _replicas_online(self) -> int:
        for member in self.members:
            with contextlib.suppress(redis.RedisError):
                if member.is_running and member.is_master:
                    values = member.ask("INFO", "replication").values()
                    return sum(1 for value in values if isinstance(value, dict) and value["state"] == "online")
        return 0

    def close(self) -> None:
        for server in [*self.sentinels, *self.members]:
            server.close()
