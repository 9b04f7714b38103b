"""`--workers N`: numbers that add up, workers that are replaced, and a door that never closes."""

import asyncio
import collections
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed

from tests.backends.postgresql import Postgresql
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.backends.waiting import wait_until
from tests.journeys.systems import Process, System, migrate, settings_of
from tests.journeys.test_the_road import made, until_counted
from urlshortener.services import merged, supervisor
from urlshortener.services.merged import HandedMetric, MergedNumbers
from urlshortener.telemetry import REGISTRY


def _numbers(monkeypatch: pytest.MonkeyPatch, visits: int, age: float, trace: str) -> list[HandedMetric]:
    """Of a worker that has done so much."""
    registry = CollectorRegistry()
    Counter("visits", "Visits.", ["how"], registry=registry).labels("well").inc(visits)
    Gauge("link_cache_bytes", "Bytes.", registry=registry).set(100 * visits)
    Gauge("spool_oldest_event_age_seconds", "Age.", registry=registry).set(age)
    Gauge("broker_connected", "1 while.", ["role"], registry=registry).labels("publish").set(visits > 1)
    Histogram("took", "Time.", buckets=(1, 2), registry=registry).observe(1.5, {"trace_id": trace})
    monkeypatch.setattr(merged, "REGISTRY", registry)
    return merged.handed_over()


def _shown(numbers: MergedNumbers) -> dict[tuple[str, str], float]:
    text = openmetrics(numbers).decode()  # type: ignore[no-untyped-call]
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in parsed(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def refuses(*_: Any, **__: Any) -> None:
        tried.append(True)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuses)
    monkeypatch.setattr(supervisor, "_NOT_STARTED_SECONDS", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as door:
        keeping = asyncio.create_task(supervisor.Supervisor("shortener", 1, door, {})._keep(0))
        async with asyncio.timeout(5):
            while len(tried) < 3:
                await asyncio.sleep(0.001)
        assert not keeping.done()
        keeping.cancel()


def test_counters_and_histograms_add_up_and_gauges_are_what_they_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = MergedNumbers()
    numbers.came(0, _numbers(monkeypatch, 3, 7.0, "a"))
    numbers.came(1, _numbers(monkeypatch, 1, 9.0, "b"))
    shown = _shown(numbers)
    assert shown["visits_total", "well"] == 4
    assert (shown["took_count", ""], shown["took_sum", ""], shown["took_bucket", "2.0"]) == (2, 3.0, 2)
    assert shown["link_cache_bytes", ""] == 400
    assert shown["spool_oldest_event_age_seconds", ""] == 9.0
    assert shown["broker_connected", "publish"] == 0
    assert 'trace_id="b"' in openmetrics(numbers).decode()  # type: ignore[no-untyped-call]


def test_every_gauge_has_a_rule_of_its_own() -> None:
    gauges = {metric.name for metric in REGISTRY.collect() if metric.type == "gauge"}
    assert len(gauges) > 10
    assert gauges == set(merged.OF_GAUGES), "say in services/merged.py what several workers' values are together"


def test_what_all_workers_read_from_the_same_place_is_not_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = MergedNumbers()
    for worker, missing in enumerate((5, 7)):
        registry = CollectorRegistry()
        Gauge("events_missing", "Missing.", ["shortener"], registry=registry).labels("one").set(missing)
        monkeypatch.setattr(merged, "REGISTRY", registry)
        numbers.came(worker, merged.handed_over())
    assert _shown(numbers) == {("events_missing", "one"): 7}


def test_no_counter_goes_back_when_a_worker_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = MergedNumbers()
    numbers.came(0, _numbers(monkeypatch, 3, 7.0, "a"))
    numbers.came(0, _numbers(monkeypatch, 5, 7.0, "a"))
    numbers.gone(0)
    numbers.came(0, _numbers(monkeypatch, 2, 1.0, "b"))
    numbers.gone(1)
    shown = _shown(numbers)
    assert shown["visits_total", "well"] == 7
    assert shown["took_count", ""] == 2
    assert (shown["link_cache_bytes", ""], shown["spool_oldest_event_age_seconds", ""]) == (200, 1.0)


class Workers(Process):
    """`urlshortener shortener --workers 2`."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--workers", "2"]

    @property
    def supervisor(self) -> int:
        assert self._keeper is not None
        return _children(self._keeper.pid)[0]

    @property
    def workers(self) -> list[int]:
        return _children(self.supervisor)

    def number(self, name: str) -> float:
        """One of its numbers, all labels together."""
        text = httpx.get(f"{self.ops_urls[0]}/metrics", timeout=5).text
        found = [line.rpartition(" ") for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(value) for _, _, value in found)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def system(postgresql: Postgresql, rabbitmq: Rabbitmq, redis_server: Redis) -> Iterator[System]:
    settings = settings_of(
        *(postgresql, postgresql.fresh_database(), rabbitmq, rabbitmq.fresh_vhost()),
        *(redis_server, redis_server.fresh_database()),
    )
    migrate(settings)
    shortener, analytics = Workers("shortener", settings), Process("analytics", settings)
    system = System(shortener, analytics, [shortener, analytics])
    try:
        system.start()
        yield system
    finally:
        system.close()


class _Visits:
    """Visitors who come one after the other, each over a connection of his own."""

    def __init__(self, url: str, codes: list[str]) -> None:
        self.url = url
        self.codes = codes
        self.redirected: collections.Counter[str] = collections.Counter()
        self.cut = 0  # the process that had taken the connection was killed
        self.refused: list[str] = []
        self.over = False

    async def come(self) -> None:
        host, port = self.url.removeprefix("http://").split(":")
        while not self.over:
            code = self.codes[sum(self.redirected.values()) % len(self.codes)]
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except OSError as error:
                self.refused.append(repr(error))
                continue
            try:
                writer.write(f"GET /{code} HTTP/1.1\r\nHost: s.example\r\nConnection: close\r\n\r\n".encode())
                head = await asyncio.wait_for(reader.read(), 20)
                if head.startswith(b"HTTP/1.1 307 "):
                    self.redirected[code] += 1
                elif head:
                    self.refused.append(head[:40].decode())
                else:
                    self.cut += 1
            except OSError:
                self.cut += 1
            finally:
                writer.close()
            await asyncio.sleep(0.002)


async def test_a_killed_worker_is_replaced_and_nobody_is_refused_or_forgotten(system: System) -> None:
    shortener = system.shortener_process
    assert isinstance(shortener, Workers)
    codes = [made(system, f"https://example.com/{number}") for number in range(4)]
    visits = _Visits(system.shortener, codes)
    visitors = [asyncio.create_task(visits.come()) for _ in range(4)]
    await asyncio.sleep(0.5)
    told = 0.0
    for victim in await asyncio.to_thread(lambda: shortener.workers):
        os.kill(victim, signal.SIGKILL)
        kept = sum(visits.redirected.values())
        await asyncio.to_thread(_until_both_are_up, shortener, victim)
        assert sum(visits.redirected.values()) > kept, "the other one went on"
        before, told = told, await asyncio.to_thread(shortener.number, "redirects_total")
        assert told >= before, "a number went back"
    await asyncio.sleep(0.5)
    visits.over = True
    await asyncio.wait(visitors)
    assert not visits.refused
    assert visits.cut <= 2 * len(visitors), "only who was with a killed one may be cut"
    answered, together = dict(visits.redirected), sum(visits.redirected.values())
    counts = await until_counted(system, answered, 30)
    assert all(counts[code] >= answered[code] for code in codes), "answered, and not counted"
    assert together <= sum(counts.values()) <= together + visits.cut, "counted twice"
    assert shortener.number("workers_replaced_total") == 2
    seen = shortener.number("redirects_total")
    assert told <= seen <= together + visits.cut, "each lost its last second, and nothing that it had told before"
    assert seen > 0


def _until_both_are_up(shortener: Workers, not_this: int) -> None:
    wait_until(
        lambda: len(pids := shortener.workers) == 2 and not_this not in pids and shortener.number("workers") == 2,
        "the killed one is replaced",
        30,
    )


def test_it_is_ready_when_all_are_and_speaks_for_all(system: System) -> None:
    def words() -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(f"{system.shortener_process.ops_urls[0]}/ready").json()
        return told

    # A worker that was just made anew is ready before it has reached the broker, and says so each second.
    wait_until(lambda: words()["dependencies"] == {"broker": "ok", "links": "ok"}, "all speak well of all", 15)
    assert words()["status"] == "ready"


def test_a_signal_ends_all_of_them_cleanly(system: System) -> None:
    shortener = system.shortener_process
    assert isinstance(shortener, Workers)
    pids = [shortener.supervisor, *shortener.workers]
    os.kill(pids[0], signal.SIGTERM)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all are gone", 20)
    ends = [json.loads(line)["exit_code"] for line in shortener.log.read_text().splitlines() if '"stopped"' in line]
    assert ends == [0, 0, 0]


def test_workers_end_when_their_supervisor_is_killed(system: System) -> None:
    environment = dict(system.shortener_process._whole_environment())
    command = [sys.executable, "-m", "urlshortener", "shortener", "--workers", "2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as supervisor:
        try:
            wait_until(lambda: len(_children(supervisor.pid)) == 2, "two are started", 30)
            workers = _children(supervisor.pid)
            wait_until(lambda: _is_ready(system.shortener_process.ops_urls[0]), "they are ready", 30)
        finally:
            supervisor.kill()
        supervisor.wait()
        wait_until(lambda: not any(_lives(pid) for pid in workers), "they are gone too", 20)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
