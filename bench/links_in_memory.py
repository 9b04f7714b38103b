"""How many links may be in memory before redirects slow down, and how much memory do they take?

One core, 64 connections, the visitors spread over all of the links.
"""

import statistics
from collections.abc import Mapping, Sequence

from bench.harness import links, shortener, traffic
from bench.harness.closed_loop import Load
from bench.harness.results import IDLE_MIB, Goal
from bench.harness.run import Run

TITLE = "A million links in memory"
WHAT_LIMITS = (
    "of an idle process, nearly all is what is imported: Python itself with asyncio 19 MiB, SQLAlchemy 18, FastAPI "
    "with Starlette and Pydantic 20, gRPC and OpenTelemetry 13 (resident memory after each import). Over a million "
    "links it is waiting for memory: each visitor's link is on a page that no cache of the processor has."
)

_COUNTS = (100, 10_000, 100_000, 1_000_000)
_IDLE = 10  # links


def ask(run: Run) -> None:
    fresh = run.settings(broker=False, counts=False)
    made, memory, loads = 0, dict[int, float](), dict[int, list[Load]]()
    for count in (_IDLE, *run.some([run.so_many(count) if count > traffic.CODES else count for count in _COUNTS])):
        run.say(f"makes {count:,} links")
        links.fill_postgresql(run.postgresql(), fresh.database, count - made, first=made + 1)
        made = count
        with shortener.warmed(run, fresh, count) as service:
            memory[count] = service.memory_bytes / 2**20
            if count != _IDLE:
                loads[count] = [run.load(service.urls[0], run.requests(count)) for _ in run.rounds()]
                shortener.check_spool(run, service, loads[count])
    _figures(run, memory, loads)


def _figures(run: Run, memory: Mapping[int, float], loads: Mapping[int, Sequence[Load]]) -> None:
    most, usual = max(loads), traffic.CODES if traffic.CODES in loads else min(loads)
    run.figure("memory, idle", "MiB", [memory[_IDLE]], goal=IDLE_MIB, scales=False)
    more = Goal(500, 250, less_is_better=True)
    run.figure(f"memory, {most:,} links more", "MiB", [memory[most] - memory[_IDLE]], goal=more, scales=False)
    rates = {count: [load.a_second for load in those] for count, those in loads.items()}
    run.figure(
        f"redirects over {most:,} links",
        "1/s",
        rates[most],
        beside=rates[usual],
        beside_name=f"of {usual:,} links",
        goal=Goal(0.9, 1.0),
    )
    rate = [(float(count), statistics.median(those)) for count, those in rates.items()]
    p99 = [(float(count), statistics.median(load.p99_ms for load in those)) for count, those in loads.items()]
    run.curve("Redirects a second over links in memory", "links", "1/s", {"url-shortener": rate})
    run.curve("p99 at full load over links in memory", "links", "ms", {"url-shortener": p99})
