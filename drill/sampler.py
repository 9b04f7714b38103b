"""What is looked at beside the load: once a second how much waits where, and how busy the machine is."""

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from drill.cluster import QUEUE, Cluster


@dataclass(frozen=True)
class Sample:
    at_ns: int
    queue: int | None  # messages, those that are out included; None where nobody could say
    spool_bytes: float
    busy: float = 0.0  # share of the machine's cores, since the sample before


class Sampler:
    """Samples from entering it until it is left. What does not answer quickly is left out, not waited for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.samples: list[Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        busy = Busy()
        while not self._over.wait(1):
            since, busy = busy.share, Busy()
            self.samples.append(Sample(time.monotonic_ns(), self._queue(), self._spool_bytes(), since))

    def _queue(self) -> int | None:
        for member in self._cluster.rabbitmq:
            with contextlib.suppress(AssertionError, subprocess.SubprocessError, ValueError):
                if member.is_running and not member.is_paused:
                    return member.messages_in(QUEUE, limit_seconds=2)
        return None

    def _spool_bytes(self) -> float:
        total = 0.0
        for member in self._cluster.shorteners:
            with contextlib.suppress(AssertionError, OSError):
                if member.is_running and not member.is_paused:
                    total += member.metric("spool_bytes", limit_seconds=0.5)
        return total


class Busy:
    """How busy the machine was since this was made."""

    def __init__(self) -> None:
        self._began = _ticks()

    @property
    def share(self) -> float:
        """Of all its cores."""
        busy, idle = (now - then for now, then in zip(_ticks(), self._began, strict=True))
        return busy / (busy + idle) if busy + idle else 0.0


def _ticks() -> tuple[int, int]:
    numbers = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return sum(numbers) - idle, idle


class Ways:
    """Which way redirects took since this was made, as the shorteners tell; one that was killed, of its last life."""

    _METRICS = ("redirects_fast_total", 'redirects_total{outcome="found"}', 'link_cache_lookups_total{held="absent"}')

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self._told()

    @property
    def fast_share(self) -> float | None:
        """Of the redirects of links that were in memory; None where there were none."""
        fast, found, absent = 0.0, 0.0, 0.0
        for before, after in zip(self._before, self._told(), strict=True):
            since = [now - then for then, now in zip(before, after, strict=True)]
            if min(since) < 0:
                since = after
            fast, found, absent = fast + since[0], found + since[1], absent + since[2]
        return fast / (found - absent) if found > absent else None

    def _told(self) -> list[list[float]]:
        return [[shortener.metric(name) for name in self._METRICS] for shortener in self._cluster.shorteners]
