"""Does a second worker make redirects faster, and what does it cost each of them?

A shortener-service of one process and such of more workers take turns, each asked directly and through nginx, which
keeps its connections; a new nginx each time, so that the connections are shared out anew. The broker is away, as in
redirects.py. Where there are four cores and more, service, proxy and load have their own, and there are up to as many
workers as cores for them; where there are fewer, all share all. The service's work is that of all of its processes,
the supervisor's too. Afterwards every spool is read.
"""

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.harness import cores, links, shortener, traffic
from bench.harness.closed_loop import Load
from bench.harness.nginx import ProxyingNginx
from bench.harness.run import Fresh, Run
from bench.harness.system import Service, connections, processor_seconds

TITLE = "Workers, behind nginx that keeps its connections"
WHAT_IT_TELLS = (
    "where all processes share two cores, whether a second worker makes a redirect dearer, how evenly connections are "
    "shared, and that nothing is lost or doubled. Not how far workers scale: nginx and the load tool need more than "
    "half of both cores, and a second worker can only use what one process left idle."
)

_CONNECTIONS = 64
_DIRECTLY, _THROUGH_NGINX = "directly", "through nginx"


@dataclass
class Measured:
    """One way to ask a candidate: values of each round."""

    rates: list[float] = field(default_factory=list)
    work: dict[str, list[float]] = field(default_factory=dict)  # of whom: µs for each redirect
    most_connections: list[float] = field(default_factory=list)  # %, of the worker that had most
    most_work: list[float] = field(default_factory=list)


@dataclass
class Candidate:
    """A service of so many processes, and how it did."""

    name: str
    service: Service
    loads: list[Load] = field(default_factory=list)  # the warm-up too
    ways: dict[str, Measured] = field(default_factory=lambda: {_DIRECTLY: Measured(), _THROUGH_NGINX: Measured()})

    @property
    def workers(self) -> list[int]:
        """Those who answer: not the supervisor, from whom they come."""
        return self.service.pids[-self.service.workers :]


def ask(run: Run) -> None:
    fresh = run.settings(broker=False, counts=False)
    links.fill_postgresql(run.postgresql(), fresh.database, traffic.CODES)
    candidates = [_candidate(run, fresh, count) for count in _counts(len(cores.shared_out().service))]
    for one in candidates:
        if run.effort.warm_up_seconds:
            one.loads.append(_load(run, one.service.urls[0], run.effort.warm_up_seconds))
    for _ in run.rounds():
        for one in candidates:
            _measure(run, one, _DIRECTLY, one.service.urls[0], {})
            _through_nginx(run, one)
    _figures(run, candidates)
    for one in candidates:
        shortener.check_spool(run, one.service, one.loads)


def _counts(places: int) -> list[int]:
    """1, 2, 4, … as long as each has a core; two at the least."""
    return [1 << power for power in range(max(2, places.bit_length()))]


def _candidate(run: Run, fresh: Fresh, count: int) -> Candidate:
    service = shortener.warmed(run, fresh, traffic.CODES, cores.shared_out().service, workers=count)
    return Candidate("one process" if count == 1 else f"{count} workers", service)


def _load(run: Run, url: str, seconds: float | None = None) -> Load:
    return run.load(url, run.requests(), _CONNECTIONS, seconds, cores.shared_out().load)


def _through_nginx(run: Run, one: Candidate) -> None:
    places = cores.shared_out()
    count = len(places.proxy) if places.proxy != places.load else 1
    with ProxyingNginx(one.service.urls[0], processes=count) as proxy:
        with cores.on(*places.proxy):
            proxy.start()
        run.ran("nginx as proxy to shortener-service", *places.proxy)
        _measure(run, one, _THROUGH_NGINX, proxy.url, {"nginx": proxy.pids})
        held = [connections(worker, one.service.urls[0]) for worker in one.workers]
        one.ways[_THROUGH_NGINX].most_connections.append(100 * max(held) / sum(held))


def _measure(run: Run, one: Candidate, name: str, url: str, others: Mapping[str, Sequence[int]]) -> None:
    """One load, and what each process has worked for it."""
    who = {"the service": one.service.pids, **others}
    before = {pid: processor_seconds(pid) for pids in who.values() for pid in pids}
    tool = _of_ended_children()
    load = _load(run, url)
    tool = _of_ended_children() - tool
    used = {pid: processor_seconds(pid) - seconds for pid, seconds in before.items()}
    one.loads.append(load)
    way = one.ways[name]
    way.rates.append(load.a_second)
    of_whom = {whose: sum(used[pid] for pid in pids) for whose, pids in who.items()} | {"the load tool": tool}
    for whose, seconds in of_whom.items():
        way.work.setdefault(whose, []).append(1e6 * seconds / load.completed)
    of_workers = [used[pid] for pid in one.workers]
    way.most_work.append(100 * max(of_workers) / sum(of_workers))


def _of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _figures(run: Run, candidates: Sequence[Candidate]) -> None:
    alone, *several = candidates
    for name, way in alone.ways.items():
        run.figure(f"redirects {name}, {alone.name}", "1/s", way.rates)
        for one in several:
            rates = one.ways[name].rates
            run.figure(f"redirects {name}, {one.name}", "1/s", rates, beside=way.rates, beside_name=alone.name)
    for name, way in alone.ways.items():
        for one in several:
            for who, work in one.ways[name].work.items():
                what = f"work for a redirect {name}, {one.name}: {who}"
                run.figure(what, "µs", work, beside=way.work[who], beside_name=alone.name)
    for one in several:
        ways = one.ways
        kept = ways[_THROUGH_NGINX].most_connections
        run.figure(f"nginx' connections of the worker that has most, {one.name}", "%", kept)
        for name, way in ways.items():
            run.figure(f"work of the busiest worker {name}, {one.name}", "%", way.most_work)
