"""The whole system as processes, in both of its shapes. A journey knows their addresses and nothing else."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

from tests.backends.ports import free_port
from tests.backends.postgresql import Postgresql
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.backends.server import Server

VISITOR_SECRET = "the-same-on-every-replica"


class Process(Server):
    """One process of ours: `urlshortener COMMAND`, ready when it says so."""

    def __init__(self, command: str, settings: Mapping[str, str]) -> None:
        super().__init__(command)
        self._what = command
        doors = {"run": ("SHORTENER", "ANALYTICS")}.get(command, (command.upper(),))
        ports = {f"{door}_{suffix}": free_port() for door in doors for suffix in ("PORT", "OPS_PORT")}
        self._settings = {**settings, **{name: str(port) for name, port in ports.items()}}
        self.urls = [f"http://127.0.0.1:{ports[f'{door}_PORT']}" for door in doors]
        self.ops_urls = [f"http://127.0.0.1:{ports[f'{door}_OPS_PORT']}" for door in doors]

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-m", "urlshortener", self._what]

    def _environment(self) -> Mapping[str, str]:
        return {"DATA_DIR": str(self.folder / "data"), "STOP_TIMEOUT": "15s", **self._settings}

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What a person at a terminal is answered, with the settings of this process."""
        return subprocess.run(
            [sys.executable, "-m", "urlshortener", *arguments],
            env={**os.environ, **self._environment()},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def _answers(self) -> bool:
        return all(_answers(f"{url}/ready") for url in self.ops_urls)


class System:
    """Processes that together make, follow and count links."""

    def __init__(self, shortener: Process, analytics: Process, processes: Sequence[Process]) -> None:
        self.shortener_process = shortener
        self.analytics_process = analytics
        self.processes = processes
        self.shortener = shortener.urls[0]
        self.analytics = analytics.urls[-1]

    def start(self) -> None:
        for process in self.processes:
            process.launch()
        for process in self.processes:
            process.wait_until_it_answers()

    def close(self) -> None:
        for process in self.processes:
            process.close()


def all_in_one(settings: Mapping[str, str] | None = None) -> System:
    """`urlshortener run` and nothing else."""
    process = Process("run", settings or {})
    return System(process, process, [process])


def two_services(
    postgresql: Postgresql,
    database: str,
    rabbitmq: Rabbitmq,
    vhost: str,
    redis: Redis,
    redis_database: int,
    more: Mapping[str, str] | None = None,
) -> System:
    """`urlshortener shortener` and `urlshortener analytics` on real servers; the schema is there already."""
    settings = {**settings_of(postgresql, database, rabbitmq, vhost, redis, redis_database), **(more or {})}
    migrate(settings)
    shortener, analytics = Process("shortener", settings), Process("analytics", settings)
    return System(shortener, analytics, [shortener, analytics])


def settings_of(
    postgresql: Postgresql, database: str, rabbitmq: Rabbitmq, vhost: str, redis: Redis, redis_database: int
) -> dict[str, str]:
    return {
        "LINKS_URL": f"postgresql://{postgresql.user}@{postgresql.host}:{postgresql.port}/{database}",
        "LINKS_PASSWORD": postgresql.password,
        "EVENTS_URL": f"amqp://{rabbitmq.user}@{rabbitmq.host}:{rabbitmq.port}/{vhost}",
        "EVENTS_PASSWORD": rabbitmq.password,
        "STATS_URL": f"redis://{redis.host}:{redis.port}/{redis_database}",
        "STATS_PASSWORD": redis.password,
        "VISITOR_SECRET": VISITOR_SECRET,
    }


def migrate(settings: Mapping[str, str]) -> None:
    environment = {**os.environ, **settings}
    done = subprocess.run(
        [sys.executable, "-m", "urlshortener", "migrate"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
