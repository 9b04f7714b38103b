"""What was counted in the end, asked as anybody would ask; and events to count, made without anybody who clicks."""

import asyncio
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.harness import traffic
from bench.harness.closed_loop import Load
from bench.harness.run import Run
from bench.harness.system import Lost, Service
from urlshortener.events.amqp import AmqpPublisher, Broker, Topology
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors

_PAGE = 100


class _Counts(msgspec.Struct):
    access_count: int


class _Page(msgspec.Struct):
    items: list[_Counts]
    total: int


def counted_by_now(*services: Service) -> int:
    """By their own metrics: an answer of the store that was lost on its way comes again as that of duplicates."""
    told = [service.metrics() for service in services]
    return int(sum(m.get("events_counted_total", 0) + m.get("events_duplicate_total", 0) for m in told))


def seconds_until_counted(*services: Service, expected: int, within_seconds: float) -> float:
    """Wait until so many are counted; how long it took. Lost if they never are. `total` tells if each was once."""
    began = time.monotonic()
    while (counted := counted_by_now(*services)) < expected:
        if time.monotonic() - began > within_seconds:
            raise Lost(f"{counted:,} of {expected:,} are counted after {within_seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def total(analytics_url: str) -> int:
    """The sum of all counts, as the list of all codes has them."""
    found, offset = 0, 0
    while True:
        with urllib.request.urlopen(
            f"{analytics_url}/api/v1/analytics?limit={_PAGE}&offset={offset}", timeout=30
        ) as answer:
            page = msgspec.json.decode(answer.read(), type=_Page)
        found += sum(item.access_count for item in page.items)
        offset += _PAGE
        if offset >= page.total:
            return found


def check_counts(run: Run, service: Service, loads: Sequence[Load]) -> None:
    """Every redirect of `urlshortener run` is counted once: those of wrk, and there were no others."""
    redirected = service.redirected
    run.check_answered("urlshortener run", loads, redirected)
    seconds_until_counted(service, expected=redirected, within_seconds=60)
    found = total(service.urls[1])
    run.check(f"{redirected:,} redirects, {found:,} counted", holds=redirected == found)


def publish(folder: Path, broker: Broker, count: int) -> None:
    """So many events in the queue, as a shortener publishes them: each with a visitor and an id of its request."""
    asyncio.run(_publish(folder, broker, count))


async def _publish(folder: Path, broker: Broker, count: int) -> None:
    spool = Spool(folder, max_bytes=1 << 40)
    visitors = Visitors("a-secret-of-the-bench", False)
    publishing = asyncio.create_task(AmqpPublisher(broker, Topology(), spool).run())
    try:
        for number, (code, address, browser) in enumerate(traffic.visits(traffic.codes(traffic.CODES), count)):
            at = datetime.now(UTC)
            visitor = visitors.visitor(address, browser, at)
            written = spool.append(
                code, at, browser, visitors.address(address), "https://news.example/", visitor, f"{number:032x}"
            )
            if number % 64 == 63:
                await written
        while spool.unsent:  # noqa: ASYNC110 (nobody else needs to be told)
            await asyncio.sleep(0.02)
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        spool.close()
