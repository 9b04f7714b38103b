"""The whole road on two cores: how many redirects a second, with every event counted; and how old is one by then?

Both services, PostgreSQL, RabbitMQ, Redis and the load share the two cores, as the system likes. Visitors come on
time (open loop, 64 connections). A rate is kept if none was turned away, and every event was counted within 5 s of
the last visitor.
"""

from collections.abc import Mapping

from bench.harness import cores, open_loop, shortener, traffic
from bench.harness.counts import seconds_until_counted, total
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.system import Lost, Service

TITLE = "End to end on two cores"

_BOTH = (cores.SERVICE, cores.LOAD)
_RATES = (10_000, 15_000, 20_000, 25_000, 30_000)
_SLOW_RATE = 5_000
_LATE_SECONDS = 5.0
_LENGTH = 5  # times as long as other loads


def ask(run: Run) -> None:
    fresh = run.settings()
    service = shortener.started(run, fresh, traffic.CODES, on=_BOTH)
    analytics = run.start(Service("analytics", fresh.settings), *_BOTH, what="analytics-service")
    run.ran("the open-loop tool, 64 connections", *_BOTH)
    visitors = _ages(run, service, analytics)
    kept, late, before = 0.0, 0.0, visitors
    for rate in run.some(_RATES):
        run.say(f"{rate:,} a second")
        waits = _visit(run, service, rate, run.effort.seconds * _LENGTH)
        before += waits.redirected
        seconds = seconds_until_counted(analytics, before, within_seconds=180)
        if waits.errors or waits.took_seconds > 1.02 * run.effort.seconds * _LENGTH or seconds > _LATE_SECONDS:
            break
        kept, late = rate, seconds
    run.figure("redirects, all counted within 5 s of the end", "1/s", [kept], goal=Goal(20_000, 30_000))
    run.figure("until all were counted", "s", [late])
    found = total(analytics.urls[0])
    run.check(f"{service.redirected:,} redirects, {found:,} counted", holds=service.redirected == found == before)


def _ages(run: Run, service: Service, analytics: Service) -> int:
    """How old events are when they are counted, while 5,000 a second come; how many came."""
    before = analytics.metrics()
    waits = _visit(run, service, _SLOW_RATE, run.effort.seconds * _LENGTH)
    seconds_until_counted(analytics, waits.redirected, within_seconds=60)
    age = 1000 * _p99(before, analytics.metrics())
    name = f"age of an event when it is counted: p99, at {_SLOW_RATE:,} redirects/s"
    run.figure(name, "ms", [age], goal=Goal(1000, 250, less_is_better=True), scales=False)
    return waits.redirected


def _visit(run: Run, service: Service, rate: float, seconds: float) -> open_loop.Waits:
    return open_loop.run(service.urls[0], run.requests(), a_second=rate, seconds=seconds, on=_BOTH, spins=False)


def _p99(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """From a histogram's buckets: between two bounds it is taken for even."""
    prefix = "event_age_when_counted_seconds_bucket{"
    counts = {
        float(name.split('le="')[1].split('"')[0]): after[name] - before.get(name, 0)
        for name in after
        if name.startswith(prefix)
    }
    bounds = sorted(counts)
    wanted = 0.99 * counts[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= wanted and counts[bound] > below:
            return lower + (bound - lower) * (wanted - below) / (counts[bound] - below)
        below, lower = counts[bound], bound
    raise Lost("no event has an age")
