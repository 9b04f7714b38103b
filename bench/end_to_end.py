"""The whole road on two cores: how many redirects a second, with every event counted; and how old is one by then?

Both services, PostgreSQL, RabbitMQ, Redis and the load share the two cores, as the system likes. Visitors come on
time (open loop, 64 connections). A rate is kept if none was turned away or kept waiting, and every event was counted
within 5 s of the last visitor. The first rate that is tried is near what a closed loop gives.
"""

from bench.harness import cores, histogram, open_loop, shortener, traffic
from bench.harness.counts import seconds_until_counted, total
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.system import Service

TITLE = "End to end on two cores"
WHAT_LIMITS = (
    "two cores for everything: by the tables above the redirect with its message takes 18 µs and its counting 8, and "
    "on the same cores are Redis' 11, RabbitMQ and the load tool."
)

_BOTH = (cores.SERVICE, cores.LOAD)
_SLOW_RATE = 5_000
_RATES = (4_000, 6_000, 8_000, 10_000, 12_500, 15_000, 17_500, 20_000, 25_000, 30_000)
_LATE_SECONDS = 5.0
_LONG_SECONDS = 60


def ask(run: Run) -> None:
    fresh = run.settings()
    service = shortener.started(run, fresh, traffic.CODES, on=_BOTH)
    analytics = run.start(Service("analytics", fresh.settings), *_BOTH, what="analytics-service")
    run.ran("the open-loop tool, 64 connections", *_BOTH)
    _ages(run, service, analytics)
    rates = [rate for rate in run.some(_RATES) if rate < 1.2 * _most(run, service, analytics)] or _RATES[:1]
    seconds = max(1, _LONG_SECONDS * run.effort.share)
    for rate in reversed(rates):  # from the fastest that might do
        run.say(f"{rate:,} a second, {seconds:.0f} s")
        waits = _visit(run, service, rate, seconds)
        late = seconds_until_counted(analytics, expected=service.redirected, within_seconds=180)
        if not waits.errors and waits.took_seconds < 1.01 * seconds + 0.2 and late <= _LATE_SECONDS:
            break
    else:
        rate = 0
    name = f"redirects, {seconds:.0f} s long, all counted within 5 s of the end"
    run.figure(name, "1/s", [rate], goal=Goal(20_000, 30_000))
    run.figure("until all were counted", "s", [late])
    found, redirected = total(analytics.urls[0]), service.redirected
    run.check(f"{redirected:,} redirects, {found:,} counted", holds=redirected == found)


def _most(run: Run, service: Service, analytics: Service) -> float:
    """What is answered and counted in a closed loop, the time to count the rest included."""
    before = service.redirected
    load = run.load(service.urls[0], run.requests(), seconds=2 * run.effort.seconds)
    late = seconds_until_counted(analytics, expected=service.redirected, within_seconds=180)
    return (service.redirected - before) / (load.seconds + late)


def _ages(run: Run, service: Service, analytics: Service) -> None:
    """How old events are when they are counted, while 5,000 a second come."""
    before = analytics.metrics()
    _visit(run, service, _SLOW_RATE, 5 * run.effort.seconds)
    seconds_until_counted(analytics, expected=service.redirected, within_seconds=60)
    ages = histogram.seen(before, analytics.metrics(), "event_age_when_counted_seconds")
    age = 1000 * histogram.between(ages, 0.99)
    name = f"age of an event when it is counted: p99, at {_SLOW_RATE:,} redirects/s"
    run.figure(name, "ms", [age], goal=Goal(1000, 250, less_is_better=True), scales=False)


def _visit(run: Run, service: Service, rate: float, seconds: float) -> open_loop.Waits:
    return open_loop.run(service.urls[0], run.requests(), a_second=rate, seconds=seconds, on=_BOTH, spins=False)
