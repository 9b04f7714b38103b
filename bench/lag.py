"""`python -m bench.lag`: how far counting falls behind while the broker is away, and how soon it is back; as Prometheus
sees it.

Both services, PostgreSQL, RabbitMQ and Redis on this machine, visitors at a steady rate, and in the middle RabbitMQ is
stopped and started again. Debian's Prometheus reads both services every second. What it has seen becomes docs/lag.md
and its picture; if not every redirect is counted exactly once in the end, nothing is written.
"""

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness import cores, counts, machine, open_loop, shortener
from bench.harness.prometheus import Prometheus
from bench.harness.results import Answer
from bench.harness.run import USUAL, Run, Shared
from bench.harness.system import Lost, Service
from drill.plots import Panel, Point, plot

_ROOT = Path(__file__).parent.parent
PAGE = _ROOT / "docs" / "lag.md"
PICTURE = _ROOT / "docs" / "pictures" / "lag.svg"

_BOTH = (cores.SERVICE, cores.LOAD)
_CODES = 1000
_AFTERWARDS_SECONDS = 10  # in which the curves may come down
_PATIENCE_SECONDS = 300

_AGE = "event_age_when_counted_seconds"
_QUERIES = {
    "redirected": 'sum(rate(redirects_total{outcome="found"}[3s]))',
    "counted": "sum(rate(events_counted_total[3s]))",
    "age when counted": f"sum(rate({_AGE}_sum[3s])) / sum(rate({_AGE}_count[3s]))",
    "oldest in the spool": "max(spool_oldest_event_age_seconds)",
    "spool": "clamp_min(sum(events_spooled_total) - sum(events_confirmed_total), 0)",
    "queue": "clamp_min(sum(events_confirmed_total) - sum(events_counted_total), 0)",
}
_PANELS = {
    "events a second": (("redirected", "counted"), ""),
    "lag": (("age when counted", "oldest in the spool"), " s"),
    "events that wait": (("spool", "queue"), ""),
}


@dataclass(frozen=True)
class Watched:
    """What was done, and what Prometheus saw of it; seconds count from when the broker was stopped."""

    rate: int
    load_seconds: float
    away_seconds: float
    until_counted_seconds: float
    redirected: int
    counted: int
    from_seconds: float
    curves: dict[str, list[Point]]


def watch(run: Run, rate: int, load_seconds: float, away_seconds: float) -> Watched:
    fresh = run.settings()
    service = shortener.started(run, fresh, _CODES, on=_BOTH)
    analytics = run.start(Service("analytics", fresh.settings), *_BOTH, what="analytics-service")
    urls = {"shortener": service.ops_urls[0], "analytics": analytics.ops_urls[0]}
    prometheus = run.start(Prometheus(urls), *_BOTH, what="Prometheus")
    time.sleep(5)  # so that there is something before the load
    began = float(int(time.time()))
    waits: list[open_loop.Waits] = []
    load = threading.Thread(target=lambda: waits.append(_visit(run, service, rate, load_seconds)))
    load.start()
    time.sleep(load_seconds / 3)
    stopped = time.time()
    run.shared.rabbitmq.stop()
    time.sleep(away_seconds)
    run.shared.rabbitmq.start()
    back = time.time()
    load.join()
    _wait_until_counted(service, analytics)
    counted_at = time.time()
    time.sleep(_AFTERWARDS_SECONDS)
    ended = time.time()
    curves = {name: prometheus.curve(query, began, ended) for name, query in _QUERIES.items()}
    redirected, counted = service.redirected, counts.total(analytics.urls[0])
    answered = sum(each.redirected for each in waits)
    run.check(f"{answered:,} visitors sent on, {redirected:,} redirects", holds=answered == redirected)
    run.check(f"{redirected:,} redirects, {counted:,} counted", holds=redirected == counted)
    shift = stopped - began
    return Watched(
        rate,
        load_seconds,
        back - stopped,
        counted_at - max(back, began + load_seconds),
        redirected,
        counted,
        -shift,
        {name: [(at - shift, value) for at, value in curve] for name, curve in curves.items()},
    )


def _wait_until_counted(service: Service, analytics: Service) -> None:
    """Lost where they never are: then it says how far they came, and what both services had to say."""
    try:
        counts.seconds_until_counted(analytics, expected=service.redirected, within_seconds=_PATIENCE_SECONDS)
    except Lost as lost:
        sent, got = service.metrics(), analytics.metrics()
        stages = {name: int(sent[f"events_{name}_total"]) for name in ("spooled", "confirmed")}
        stages |= {name: int(got[f"events_{name}_total"]) for name in ("counted", "duplicate")}
        print(service.log_tail(), analytics.log_tail(), sep="\n", file=sys.stderr)
        raise Lost(f"{lost}: {stages}") from None


def _visit(run: Run, service: Service, rate: float, seconds: float) -> open_loop.Waits:
    return open_loop.run(service.urls[0], run.requests(_CODES), a_second=rate, seconds=seconds, on=_BOTH, spins=False)


def picture(watched: Watched) -> str:
    panels = [
        Panel(title, {name: watched.curves[name] for name in names}, unit) for title, (names, unit) in _PANELS.items()
    ]
    last = max(at for curve in watched.curves.values() for at, _ in curve)
    return plot(panels, watched.from_seconds, last, watched.away_seconds)


def page(watched: Watched, described: dict[str, str]) -> str:
    curves = watched.curves
    backlog = [(a or 0) + (b or 0) for (_, a), (_, b) in zip(curves["spool"], curves["queue"], strict=True)]
    ages = [age for _, age in (*curves["age when counted"], *curves["oldest in the spool"]) if age is not None]
    table = "\n".join(f"| {name} | {value} |" for name, value in described.items() if name not in ("nginx", "wrk"))
    return _PAGE.format(watched=watched, backlog=max(backlog), age=max(ages), table=table)


_PAGE = """# Counting while the broker is away

Made by `python -m bench.lag`, on two cores: both services, PostgreSQL, RabbitMQ and Redis on one machine, and
Prometheus, which reads both services every second. {watched.rate:,} visitors a second follow links for
{watched.load_seconds:.0f} s. In the middle RabbitMQ is stopped and started again; it answers after
{watched.away_seconds:.0f} s (shaded; time counts from the stop).

![Events a second, their lag and the backlog over time, rising while the broker is away and falling when it is back](pictures/lag.svg)

- **Redirects go on.** Nobody waits for the broker: events wait in the spool, on disk, and grow older.
- **Counting catches up.** When the broker is back, the spool is sent at once and counted faster than new events come, until
  lag and backlog are down again.
- **Every event was counted exactly once**: {watched.redirected:,} visitors were sent on, {watched.counted:,} are counted.
  The run checks it and writes no page otherwise. The last was counted {watched.until_counted_seconds:.1f} s after load
  and outage were over.
- At most {backlog:,.0f} events waited, and the oldest was {age:.0f} s old.

Lag is the mean of `event_age_when_counted_seconds` over 3 s, and `spool_oldest_event_age_seconds`. Of the backlog, `spool`
is what was spooled and not confirmed, `queue` what was confirmed and not counted.
[CountsLate](operations.md#countslate) says what to do when it stays.

| the machine | |
|---|---|
{table}
"""  # noqa: E501 (a page's picture is one line)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lag", description="Write docs/lag.md and its picture.")
    parser.add_argument("--rate", type=int, default=500, help="visitors a second")
    parser.add_argument("--seconds", type=float, default=90, help="how long they come")
    parser.add_argument("--away", type=float, default=10, help="how long the broker stays stopped")
    parser.add_argument("--try", action="store_true", dest="only_try", help="write nothing")
    wanted = parser.parse_args(arguments)
    described = machine.described()
    shared = Shared(USUAL)
    run = Run(USUAL, Answer("lag", "Lag", "python -m bench.lag"), shared)
    try:
        watched = watch(run, wanted.rate, wanted.seconds, wanted.away)
    finally:
        run.close()
        shared.close()
    if not wanted.only_try:
        PICTURE.write_text(picture(watched) + "\n")
        PAGE.write_text(page(watched, described))
    print("\n".join(run.answer.checks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
