"""How long does a visitor wait, at half of what the service can do, beside nginx at the same rate?

Open loop: visitors come on time, whoever is slow. First the most that the service answers is found, in a closed loop.
"""

import statistics

from bench.harness import cores, open_loop, shortener, traffic
from bench.harness.beside import Beside
from bench.harness.nginx import RedirectingNginx
from bench.harness.open_loop import Waits
from bench.harness.results import Goal
from bench.harness.run import Run

TITLE = "How long a visitor waits, open loop"
WHAT_LIMITS = (
    "at half of its maximum a turn of the loop has one or two visitors, and pays for one `epoll` and one write to the "
    "spool all the same; nginx pays for no such turn. The longest waits are the machine's: its own kernel threads take "
    "the core for up to 4 ms (`perf sched`), and no sample of the loop's own delay was above 0.5 ms."
)

_TIMES = 3  # in each round: the slowest hundredth differs most between two runs
_OTHER_SHARES = (0.1, 0.25, 0.75)
_WHO = ("url-shortener", "nginx")


def ask(run: Run) -> None:
    service = shortener.started(run, run.settings(broker=False, counts=False), traffic.CODES)
    nginx = run.start(RedirectingNginx(traffic.targets(traffic.CODES)))
    beside = Beside(run, service.urls[0], nginx.url)
    beside.warm_up(run.requests())
    most = statistics.median(beside.both(run.requests(), 64)[0].a_second for _ in run.rounds())
    run.ran("the open-loop tool, 64 connections", cores.LOAD)
    at_half = [_both(run, beside, most / 2) for _ in run.rounds() for _ in range(_TIMES)]
    ours, theirs = [pair[0] for pair in at_half], [pair[1] for pair in at_half]
    for name, field in (("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms")):
        run.figure(
            f"{name} at {most / 2:,.0f} redirects/s",
            "ms",
            [getattr(waits, field) for waits in ours],
            beside=[getattr(waits, field) for waits in theirs],
            goal=Goal(2, 1, less_is_better=True) if name == "p99" else None,
        )
    run.figure("the tool's own lateness: p99", "ms", [waits.late_p99_ms for waits in ours])
    pairs = {most / 2: at_half[0]} | {most * share: _both(run, beside, most * share) for share in _OTHER_SHARES}
    lines = {name: [(rate, pairs[rate][place].p99_ms) for rate in sorted(pairs)] for place, name in enumerate(_WHO)}
    run.curve("p99 over rate, open loop, 64 connections", "redirects a second", "ms", lines)
    others = sum(waits[0].redirected for rate, waits in pairs.items() if rate != most / 2)
    visitors = others + sum(waits.redirected for waits in ours)
    shortener.check_spool(run, service, beside.ours, visitors)


def _both(run: Run, beside: Beside, rate: float) -> tuple[Waits, Waits]:
    """Ours, then nginx; no visitor may be turned away."""
    waits = [open_loop.run(url, run.requests(), a_second=rate, seconds=run.effort.seconds) for url in beside.urls]
    refused = sum(wait.errors for wait in waits)
    run.check(f"{rate:,.0f} a second: {waits[0].redirected:,} visitors, {refused} not sent on", holds=not refused)
    return waits[0], waits[1]
