"""What a question has to work with: servers on their cores, time to measure in, and a place for what it finds."""

import contextlib
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.harness import closed_loop, cores, system, traffic
from bench.harness.nginx import RedirectingNginx
from bench.harness.results import Answer, Curve, Figure, Goal
from tests.backends.ports import free_port
from tests.backends.postgresql import Postgresql
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.backends.server import Server
from tests.journeys.systems import VISITOR_SECRET, migrate

T = TypeVar("T")
S = TypeVar("S", bound=Server)

# The machine that the absolute goals are for answers so many redirects a second, with nginx on one core.
NGINX_THERE = 84_000


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often to measure."""

    name: str
    seconds: float
    rounds: int
    warm_up_seconds: float
    share: float = 1.0  # of what a question would fill or send


SMOKE = Effort("smoke", 1, 1, 0, share=0.01)  # to see that the harness works: its figures mean nothing
USUAL = Effort("usual", 3, 3, 1)
THOROUGH = Effort("thorough", 10, 5, 3)


class Run:
    """One question's run. Everything that it started ends with it; what all questions share ends with the last."""

    def __init__(self, effort: Effort, answer: Answer, shared: "Shared") -> None:
        self.effort = effort
        self.answer = answer
        self.shared = shared
        self._began = time.monotonic()
        self._stack = contextlib.ExitStack()

    def close(self) -> None:
        self._stack.close()

    # servers

    def start(self, server: S, *on: int, what: str = "") -> S:
        """Start it on that core (else the one for what is measured), have it ended with this question, and list it."""
        self._stack.callback(server.close)
        self.say(f"starts {what or server.name}")
        system.start(server, *on)
        self.ran(what or server.name, *(on or (cores.SERVICE,)))
        return server

    def ran(self, what: str, *on: int) -> None:
        """List a process that ran there."""
        line = f"core {' or '.join(map(str, on))}: {what}"
        if line not in self.answer.processes:
            self.answer.processes.append(line)

    def postgresql(self) -> Postgresql:
        self.ran("PostgreSQL", cores.LOAD)
        return self.shared.postgresql

    def rabbitmq(self) -> Rabbitmq:
        self.ran("RabbitMQ", cores.LOAD)
        return self.shared.rabbitmq

    def redis(self) -> Redis:
        self.ran("Redis", cores.LOAD)
        return self.shared.redis

    def settings(self, *, broker: bool = True, counts: bool = True) -> "Fresh":
        """Settings of the services on a fresh database, virtual host and Redis database; without a broker or counts,
        where the question needs none: then nobody listens there."""
        postgresql = self.postgresql()
        database = postgresql.fresh_database()
        settings = {
            "LINKS_URL": f"postgresql://{postgresql.user}@{postgresql.host}:{postgresql.port}/{database}",
            "LINKS_PASSWORD": postgresql.password,
            "EVENTS_URL": f"amqp://127.0.0.1:{free_port()}/",
            "STATS_URL": f"redis://127.0.0.1:{free_port()}/0",
            "VISITOR_SECRET": VISITOR_SECRET,
        }
        vhost = ""
        if broker:
            rabbitmq = self.rabbitmq()
            vhost = rabbitmq.fresh_vhost()
            settings["EVENTS_URL"] = f"amqp://{rabbitmq.user}@{rabbitmq.host}:{rabbitmq.port}/{vhost}"
            settings["EVENTS_PASSWORD"] = rabbitmq.password
        if counts:
            redis = self.redis()
            settings["STATS_URL"] = f"redis://{redis.host}:{redis.port}/{redis.fresh_database()}"
            settings["STATS_PASSWORD"] = redis.password
        migrate(settings)
        return Fresh(settings, database, vhost)

    # measuring

    def requests(self, codes: int = traffic.CODES) -> Path:
        """A file of visits of so many codes, for the closed loop."""
        return self.shared.requests(codes)

    def load(
        self,
        url: str,
        requests: Path,
        connections: int = 64,
        seconds: float | None = None,
        on: Sequence[int] = (cores.LOAD,),
    ) -> closed_loop.Load:
        """As many requests as are answered, from core 1 if no other is named."""
        self.ran(f"wrk, {connections} connections", *on)
        seconds = seconds or self.effort.seconds
        return closed_loop.run(url, requests, connections=connections, seconds=seconds, on=on)

    def warm_up(self, url: str, requests: Path, connections: int = 64) -> closed_loop.Load | None:
        if not self.effort.warm_up_seconds:
            return None
        return self.load(url, requests, connections, self.effort.warm_up_seconds)

    def rounds(self) -> Iterator[int]:
        for number in range(1, self.effort.rounds + 1):
            self.say(f"round {number} of {self.effort.rounds}")
            yield number

    def by_turns(self, one: T, other: T) -> Iterator[T]:
        """Twice each of them in a round, so that both have the same machine, whatever else that does meanwhile."""
        for _ in self.rounds():
            yield from (one, other, other, one)

    def so_many(self, count: int) -> int:
        """That many, or few where only the harness is tried."""
        return max(1, int(count * self.effort.share))

    def some(self, places: Sequence[T]) -> Sequence[T]:
        """All of the places of a curve, or its first and last where only the harness is tried."""
        return places if self.effort.share == 1 else (places[0], places[-1])

    # what was found

    def figure(
        self,
        name: str,
        unit: str,
        values: Sequence[float],
        *,
        beside: Sequence[float] | None = None,
        beside_name: str = "nginx",
        goal: Goal | None = None,
        scales: bool = True,
    ) -> None:
        """A number, one value for each run; with `beside`, the goal is for their ratio."""
        made = Figure(name, unit, list(values), list(beside) if beside else None, beside_name, goal, scales)
        self.answer.figures.append(made)
        ratio = f", {made.ratio:.2f} × {beside_name}" if made.ratio is not None else ""
        self.say(f"{name}: {made.median:,.4g} {unit}{ratio}", stays=True)

    def curve(self, title: str, across: str, up: str, lines: dict[str, list[tuple[float, float]]]) -> None:
        self.answer.curves.append(Curve(title, across, up, lines))

    def check(self, words: str, *, holds: bool) -> None:
        """Something that must hold, or no figure counts."""
        if not holds:
            raise system.Lost(words)
        self.answer.checks.append(words)

    def check_answered(self, what: str, loads: Sequence[closed_loop.Load], answered: int) -> None:
        """What a server says it answered lies between what the load tool read and what it sent; and no errors."""
        read, sent = sum(load.completed for load in loads), sum(load.sent for load in loads)
        errors = sum(load.errors for load in loads)
        words = f"{what}: {sent:,} requests sent, {read:,} answers read, {answered:,} answered, {errors} errors"
        self.check(words, holds=read <= answered <= sent and not errors)

    def say(self, words: str, *, stays: bool = False) -> None:
        """What is going on, on standard error; on a terminal the line is written over unless it stays."""
        line = f"{self.answer.question:>12} {time.monotonic() - self._began:5.0f} s  {words}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if stays else "", file=sys.stderr, flush=True)
        elif stays:
            print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Fresh:
    """Settings for the two services, and the places that they name."""

    settings: dict[str, str]
    database: str
    vhost: str


class Shared:
    """Back ends that several questions use, each started when it is first wanted, all on the load's core."""

    def __init__(self, effort: Effort, postgresql: Postgresql | None = None) -> None:
        self._effort = effort
        self._stack = contextlib.ExitStack()
        if postgresql is not None:
            self.postgresql = postgresql

    def close(self) -> None:
        self._stack.close()

    def _started(self, make: Callable[[], S]) -> S:
        with cores.on(cores.LOAD):
            server = make()
            self._stack.callback(server.close)
            server.start()
        return server

    @functools.cached_property
    def postgresql(self) -> Postgresql:
        """Durable: with fsync."""

        def make() -> Postgresql:
            server = Postgresql("bench-postgresql")
            server.configuration |= {"shared_buffers": "256MB", "max_wal_size": "4GB"}
            return server

        return self._started(make)

    @functools.cached_property
    def rabbitmq(self) -> Rabbitmq:
        return self._started(lambda: Rabbitmq("bench-rabbitmq"))

    @functools.cached_property
    def redis(self) -> Redis:
        return self._started(lambda: Redis("bench-redis"))

    def requests(self, codes: int) -> Path:
        path = self._folder / f"{codes}.requests"
        if not path.exists():
            closed_loop.write_requests(path, traffic.requests(traffic.codes(codes)))
        return path

    @functools.cached_property
    def _folder(self) -> Path:
        folder = tempfile.TemporaryDirectory(prefix="urlshortener-bench-")
        self._stack.callback(folder.cleanup)
        return Path(folder.name)

    @functools.cached_property
    def nginx_scale(self) -> float:
        """How fast this machine is, by the one thing that the absolute goals name: nginx's redirects a second."""
        with RedirectingNginx(traffic.targets(traffic.CODES)) as nginx:
            system.start(nginx)
            requests = self.requests(traffic.CODES)
            rates = [
                closed_loop.run(nginx.url, requests, connections=64, seconds=self._effort.seconds).a_second
                for _ in range(self._effort.rounds)
            ]
        return statistics.median(rates) / NGINX_THERE
