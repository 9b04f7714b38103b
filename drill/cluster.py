"""Three nodes on loopback, with everything that production has, and two proxies in front."""

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from drill.servers import (
    NODES,
    PASSWORD,
    PROGRAM,
    PROXIES,
    Etcd,
    Member,
    NamesOfErlang,
    Nginx,
    Postgresql,
    Rabbitmq,
    Redis,
    Sentinel,
    Service,
    service_settings,
    wait_for,
)

QUEUE = "access_logs"
T = TypeVar("T")


class Cluster:
    """Started whole, supervised until it is closed, and removed with all its data then.

    Nothing of it outlives the process that made it, whatever ends that one.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        cookie = secrets.token_hex(12)
        self.settings = service_settings()
        self.etcd = [Etcd(node) for node in NODES]
        self.postgresql = [Postgresql(node) for node in NODES]
        self.names = NamesOfErlang()
        self.rabbitmq = [Rabbitmq(node, cookie) for node in NODES]
        self.redis = [Redis(node) for node in NODES]
        self.sentinels = [Sentinel(node) for node in NODES]
        self.shorteners = [Service("shortener", node, self.settings) for node in NODES]
        self.analytics = [Service("analytics", node, self.settings) for node in NODES]
        self.proxies = [Nginx(address) for address in PROXIES]
        self.published: dict[str, set[int]] = {}  # epoch -> numbers, of all that a witness ever heard of
        self._is_synchronous = True
        self._outdated: Sequence[Service] = []
        self._supervised: list[Member] = []
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    @property
    def members(self) -> Sequence[Member]:
        return [
            *self.etcd,
            *self.postgresql,
            self.names,
            *self.rabbitmq,
            *self.redis,
            *self.sentinels,
            *self.shorteners,
            *self.analytics,
            *self.proxies,
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """When this returns, any single process or node may be killed."""
        began = time.monotonic()
        self._supervisor.start()
        self._launch(self.names, *self.etcd, *self.redis, self.rabbitmq[0])
        self._wait(*self.etcd)
        self._launch(*self.postgresql)
        wait_for(lambda: all(r.role_in_words in ("master 2", "slave connected") for r in self.redis), "Redis", 30)
        self._launch(*self.sentinels)
        wait_for(self._postgresql_is_whole, "PostgreSQL with two replicas", 180)
        primary = self.primary()
        primary.run_sql(f"CREATE ROLE app LOGIN IN ROLE pg_signal_backend PASSWORD '{PASSWORD}'")
        primary.run_sql("CREATE DATABASE links OWNER app")
        self._migrate()
        self._wait(self.rabbitmq[0])  # the others join it, rather than each waiting for each
        self._launch(*self.rabbitmq[1:])
        self._wait(*self.rabbitmq)
        wait_for(lambda: self.rabbitmq[0].is_clustered, "RabbitMQ with three nodes", 60)
        self._launch(*self.shorteners, *self.analytics)  # after all nodes joined: they declare the queue on each
        self._wait(*self.shorteners, *self.analytics)
        self._launch(*self.proxies)
        self._wait(*self.proxies)
        self.wait_until_whole()
        self._say(f"three nodes are up after {time.monotonic() - began:.0f} s")

    def wait_until_whole(self, within_seconds: float = 90) -> None:
        """Until every member answers and every replica follows."""
        wait_for(self._postgresql_is_whole, "PostgreSQL with two replicas", within_seconds)
        wait_for(self._redis_is_whole, "Redis with two replicas", within_seconds)
        wait_for(lambda: self.rabbitmq[0].is_clustered, "RabbitMQ with three nodes", within_seconds)
        self._wait(*self.members)

    def replicate_synchronously(self, synchronously: bool) -> None:
        """Whether a commit of PostgreSQL waits for a replica."""
        self.postgresql[0].change_cluster({"synchronous_mode": "quorum" if synchronously else "off"})
        self._is_synchronous = synchronously
        wait_for(self._postgresql_is_whole, "PostgreSQL replicates otherwise", 30)

    def _postgresql_is_whole(self) -> bool:
        how = "quorum" if self._is_synchronous else "async"
        streaming = f"SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{how}'"
        return self.primary().run_sql(streaming) == "2"

    def _redis_is_whole(self) -> bool:
        words = sorted(member.role_in_words for member in self.redis)
        return words == ["master 2", "slave connected", "slave connected"] and all(s.is_whole for s in self.sentinels)

    def primary(self) -> Postgresql:
        return _only(lambda: [member for member in self.postgresql if member.is_primary], "primary")

    def promoted_at(self) -> float:
        """When a member was last made primary, by the wall clock; 0, if that is not in the logs."""
        return max(member.promoted_at for member in self.postgresql)

    def redis_master(self) -> Redis:
        return _only(lambda: [one for one in self.redis if one.role_in_words.startswith("master")], "Redis master")

    def queue_leader(self) -> Rabbitmq:
        address = self._any_rabbitmq(lambda member: member.leader_of(QUEUE))
        return next(member for member in self.rabbitmq if member.address == address)

    def etcd_leader(self) -> Etcd:
        return _only(lambda: [member for member in self.etcd if member.is_leader], "etcd leader")

    def messages_in(self, queue: str) -> int:
        return self._any_rabbitmq(lambda member: member.messages_in(queue))

    def _any_rabbitmq(self, ask: Callable[[Rabbitmq], T]) -> T:
        """From the first node that answers."""
        for member in self.rabbitmq:
            with contextlib.suppress(AssertionError, subprocess.SubprocessError):
                if member.is_running and not member.is_paused:
                    return ask(member)
        raise AssertionError("no RabbitMQ node answers")

    def node(self, address: str) -> Sequence[Member]:
        """All that runs on one node. Erlang's name server is the machine's, not the node's."""
        return [member for member in self.members if member.address == address and member is not self.names]

    def change_services(
        self, services: Sequence[Service], program: Sequence[str] = PROGRAM, differs: Mapping[str, str] | None = None
    ) -> None:
        """Have these run as another program, or with other settings, from now on; at once. With them, those that are
        outdated start anew, as they usually are."""
        changed = list(dict.fromkeys([*services, *self._outdated]))
        for service in changed:
            service.is_held_down = True
            service.kill()
            service.program, service.differs = (program, differs or {}) if service in services else (PROGRAM, {})
            service.launch()
            service.is_held_down = False
        self._outdated = []
        self._wait(*changed)

    def outdate(self, services: Sequence[Service]) -> None:
        """Have these start anew with the next change, whomever it is for."""
        self._outdated = [*self._outdated, *services]

    def keep_logs(self, folder: Path) -> None:
        """The ends of what all members wrote: the rest goes with the cluster."""
        folder.mkdir(exist_ok=True)
        for member in self.members:
            (folder / f"{member.name}.log").write_text(member.log_tail(2000))

    def close(self) -> None:
        self._closing.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for member in reversed(self.members):
            with contextlib.suppress(Exception):  # the next one is to go too
                member.close()

    def _launch(self, *members: Member) -> None:
        for member in members:
            member.launch()
            self._supervised.append(member)

    def _wait(self, *members: Member) -> None:
        for member in members:
            wait_for(member._answers, f"{member} answers", member.start_seconds)

    def _migrate(self) -> None:
        command = [sys.executable, "-m", "urlshortener", "migrate"]
        subprocess.run(command, env={**os.environ, **self.settings}, check=True, timeout=60, capture_output=True)

    def _supervise(self) -> None:
        while not self._closing.wait(0.05):
            for member in list(self._supervised):
                member.supervise(time.monotonic())


def _only(find: Callable[[], Sequence[T]], what: str) -> T:
    """Roles change hands: for a moment there may be none, or two."""
    found: list[T] = []

    def is_one() -> bool:
        found[:] = find()
        return len(found) == 1

    wait_for(is_one, f"one {what}", within_seconds=15)
    return found[0]
