"""What does it cost a redirect that one in a hundred is traced, or each; and what, when the collector fails?

Shorteners that differ in nothing else take turns on one core: some that nobody traces, and some for each share and each
collector: healthy, dead (nobody listens), hanging (takes connections, answers nothing). Processes that do the same
differ by a few percent, each as long as it lives; so there are as many of those that trace one in a hundred as of those
that nobody traces, and how far the latter differ among themselves is told. The broker is away, as in redirects.py. A
span costs its process work, and a lost one no less; so the process' own work for a redirect is told too. Afterwards
every spool is read, and where all are traced, two spans for each redirect were sent or counted as lost.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import collector, cores, links, shortener, traffic
from bench.harness.closed_loop import Load
from bench.harness.results import Goal
from bench.harness.run import Fresh, Run
from bench.harness.system import Service, processor_seconds

TITLE = "Tracing, and collectors that fail"
WHAT_IT_TELLS = (
    "processes that do the same differ as the first line says, each for as long as it lives. What one of them differs "
    "from another by less than that says nothing; only all that trace one in a hundred beside all that trace none do."
)

_CONNECTIONS = 64
_SHARES = {"1 %": "0.01", "100 %": "1"}
_EACH = 2  # processes, of those that trace one in a hundred, for each collector
_SPANS_OF_A_REDIRECT = 2  # the broker is away: none is published
_MOST_WAITING = 8192 + 2048  # for a collector that does not answer
_GATHER_SECONDS = 1.2  # spans are sent every second
_GOAL = Goal(0.97)


@dataclass
class Candidate:
    """One shortener, and how it did."""

    name: str
    share: str
    service: Service
    loads: list[Load] = field(default_factory=list)  # the warm-up too
    rates: list[float] = field(default_factory=list)
    own_work: list[float] = field(default_factory=list)


def ask(run: Run) -> None:
    fresh = run.settings(broker=False, counts=False)
    links.fill_postgresql(run.postgresql(), fresh.database, traffic.CODES)
    with ExitStack() as stack:
        healthy = run.start(collector.Collector(), cores.LOAD, what="a collector that takes everything").endpoint
        collectors = {"healthy": healthy, "dead": collector.dead(), "hanging": stack.enter_context(collector.hanging())}
        candidates = list(_candidates(run, fresh, collectors))
        _take_turns(run, candidates)
        _tell(run, candidates)
        for one in candidates:
            _check(run, one)
            shortener.check_spool(run, one.service, one.loads)


def _candidates(run: Run, fresh: Fresh, collectors: dict[str, str]) -> Iterator[Candidate]:
    each = run.so_many(_EACH)
    for _ in range(each * len(collectors)):
        yield Candidate("no tracing", "none", shortener.warmed(run, fresh, traffic.CODES))
    for share, ratio in _SHARES.items():
        for health, endpoint in collectors.items():
            more = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER_ARG": ratio}
            for _ in range(each if share == "1 %" else 1):
                service = shortener.warmed(run, fresh, traffic.CODES, more=more)
                yield Candidate(f"{share} traced, collector {health}", share, service)


def _tell(run: Run, candidates: Sequence[Candidate]) -> None:
    untraced = [one for one in candidates if one.share == "none"]
    slowest, *_, fastest = sorted(untraced, key=lambda one: statistics.median(one.rates))
    name = f"redirects, no tracing, the slowest of {len(untraced)} processes"
    run.figure(name, "1/s", slowest.rates, beside=fastest.rates, beside_name="the fastest")
    groups = {"1 % traced": [one for one in candidates if one.share == "1 %"]}
    for one in candidates:
        if one.share != "none":
            groups.setdefault(one.name, []).append(one)
    for name, group in groups.items():
        goal = _GOAL if name == "1 % traced" else None
        beside = _all(untraced, "rates")
        run.figure(f"redirects, {name}", "1/s", _all(group, "rates"), beside=beside, beside_name="none", goal=goal)
    for name, group in groups.items():
        words = f"the process' own work for a redirect, {name}"
        beside = _all(untraced, "own_work")
        run.figure(words, "µs", _all(group, "own_work"), beside=beside, beside_name="none")


def _all(group: Sequence[Candidate], field: str) -> list[float]:
    return [value for one in group for value in getattr(one, field)]


def _take_turns(run: Run, candidates: Sequence[Candidate]) -> None:
    requests = run.requests()
    for one in candidates:
        load = run.warm_up(one.service.urls[0], requests, _CONNECTIONS)
        one.loads += [load] if load is not None else []
    for _ in run.rounds():
        for one in candidates:
            _measure(run, one, requests)


def _measure(run: Run, one: Candidate, requests: Path) -> None:
    used = processor_seconds(one.service.pid)
    load = run.load(one.service.urls[0], requests, _CONNECTIONS)
    time.sleep(_GATHER_SECONDS)
    one.own_work.append(1e6 * (processor_seconds(one.service.pid) - used) / load.completed)
    one.loads.append(load)
    one.rates.append(load.a_second)
    if one.share != "none":
        _wait_until_told(one)


def _spans(one: Candidate) -> tuple[int, int]:
    """How many the collector took, and how many were lost."""
    metrics = one.service.metrics()
    return int(metrics["spans_sent_total"]), int(metrics["spans_lost_total"])


def _wait_until_told(one: Candidate) -> None:
    """Until nothing more becomes of its spans, so that the next one has the core for itself."""
    before, now = None, _spans(one)
    while before != now:
        time.sleep(_GATHER_SECONDS)
        before, now = now, _spans(one)


def _check(run: Run, one: Candidate) -> None:
    redirected = one.service.redirected
    fast = int(one.service.metrics()["redirects_fast_total"])
    run.check(f"{one.name}: {redirected:,} redirects, {fast:,} on the fast way", holds=fast == redirected)
    if one.share == "100 %":
        sent, lost = _spans(one)
        made = _SPANS_OF_A_REDIRECT * redirected
        words = f"{one.name}: {made:,} spans, {sent:,} sent, {lost:,} lost"
        run.check(words, holds=made - _MOST_WAITING <= sent + lost <= made)
