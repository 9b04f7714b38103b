"""A stretch of load with faults in it, and what was found when all had come to rest. A drill is made of legs."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from drill import stores, witness
from drill.checkers import Evidence, Violation, check, falls
from drill.cluster import Cluster
from drill.faults import Fault
from drill.figures import Struck, curves, figures
from drill.history import REDIRECTS, History, Outcome, Stream
from drill.load import Plan
from drill.sampler import Busy, Sample, Sampler, Ways
from drill.servers import NODES, PROXIES, wait_for

LEAD_SECONDS = 3.0  # of quiet load before the first fault: what it is compared with
REST_SECONDS = 2.0  # of quiet load after each
DRAIN_SECONDS = 120.0
MOST_LAG_MS = 50.0
LEAST_FAST_SHARE = 0.99  # of the redirects of links in memory
_ONE_SHOTS, _BEAT, _COLD = 0.04, 20.0, 0.02  # the beat's rate is a resolution, the others are shares


def rates_for(redirects_a_second: float) -> dict[Stream, float]:
    """Of each stream. The more follow links, the more make some."""
    one_shots, cold = _ONE_SHOTS * redirects_a_second, _COLD * redirects_a_second
    return {
        Stream.ONE_SHOT: one_shots,
        Stream.HOT: redirects_a_second - one_shots - cold - _BEAT,
        Stream.BEAT: _BEAT,
        Stream.COLD: cold,
        Stream.CREATE: 10.0,
        Stream.COUNT: 20.0,
    }


Say = Callable[[str], None]


@dataclass
class Result:
    """What came of a leg, as it is kept."""

    name: str
    seed: int
    lag_ms: float
    busy: float  # share of the machine's cores, on average
    seconds: float
    asked: dict[str, int]
    drained_seconds: float
    violations: list[Violation]
    fast_share: float | None = None  # of the redirects of links in memory
    strikes: list[dict[str, Any]] = field(default_factory=list)
    falls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_void(self) -> bool:
        """Times say nothing where the senders were late themselves. What was lost or doubled says so all the same."""
        return self.lag_ms >= MOST_LAG_MS

    @property
    def found(self) -> dict[str, int]:
        """How many accesses, links or numbers each checker objected to."""
        found: dict[str, int] = {}
        for violation in self.violations:
            found[violation.checker] = found.get(violation.checker, 0) + violation.by
        return found

    def add(self, one: Struck, history: History, samples: Sequence[Sample], before_ns: int, until_ns: int) -> None:
        """A fault, with what can be told of it apart from the others of its leg."""
        self.strikes.append(
            {
                "fault": one.fault,
                "role": one.role,
                "whom": one.whom,
                "harm_seconds": (one.over_ns - one.began_ns) / 1e9,
                "whole_seconds": (one.whole_ns - one.began_ns) / 1e9,
                "lost": _by_time(self.violations, "lost", one.began_ns, until_ns),
                "duplicated": _by_time(self.violations, "duplicated", one.began_ns, until_ns),
                "figures": figures(history, samples, one, before_ns, until_ns),
                "curves": curves(history, samples, one, before_ns, until_ns),
            }
        )

    def as_kept(self) -> dict[str, Any]:
        kept = asdict(self)
        kept["violations"] = kept["violations"][:200]
        return {**kept, "is_void": self.is_void, "found": self.found}


class Load:
    """The senders' process, from entering until it is left; then its history is complete."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._plan_file = Path(plan.history).with_suffix(".plan")
        plan.write(self._plan_file)
        self._say = say
        self.what = "quiet"  # for the progress line

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "drill.load", str(self._plan_file)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )
        self._busy = Busy()
        threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self.busy = self._busy.share
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(60)
        self._plan_file.unlink()
        assert self._process.returncode == 0, "the senders failed"

    def _tell(self) -> None:
        """They say a line for each second."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self._say(f"{self.what}: {told.get('ok', 0)}/s, {told.get('failed', 0)} failed, p99 {told['p99_ms']} ms")


def run_leg(  # noqa: PLR0917
    cluster: Cluster,
    name: str,
    faults: Sequence[Fault],
    seed: int,
    folder: Path,
    say: Say,
    rates: Mapping[Stream, float],
) -> Result:
    """Load, with one fault after the other; each begins when the cluster is whole again after the one before."""
    chance = random.Random(seed)
    plan = _plan(name, seed, faults, folder, rates)
    is_witnessed = all(fault.witnessed for fault in faults)
    strangers_before = _prepare(cluster, plan, is_witnessed=is_witnessed)
    plan = replace(plan, started_ns=time.monotonic_ns() + int(1.5e9))  # when the senders will be up
    struck: list[Struck] = []
    ways = Ways(cluster)
    with Sampler(cluster) as sampler, Load(plan, say) as load:
        time.sleep(LEAD_SECONDS + (plan.started_ns - time.monotonic_ns()) / 1e9)
        for fault in faults:
            load.what = fault.name
            struck.append(_strike(cluster, fault, chance))
            time.sleep(REST_SECONDS)
    ended_ns = time.monotonic_ns()
    history = History.read(Path(plan.history))
    say(f"{name}: waiting until all has arrived")
    drained_seconds, left = _drain(cluster, plan, history)
    evidence = _evidence(cluster, plan, history, left, strangers_before, is_witnessed=is_witnessed)
    fast_share = ways.fast_share
    violations = [*check(evidence), *_slow(fast_share)]
    if not violations:
        Path(plan.history).unlink()
    result = Result(
        name=name,
        seed=seed,
        lag_ms=round(history.lag_ms, 1),
        busy=load.busy,
        seconds=(ended_ns - plan.started_ns) / 1e9,
        asked=totals(history),
        drained_seconds=drained_seconds,
        violations=violations,
        fast_share=fast_share,
        falls=[asdict(fall) for fall in falls(history)],
    )
    quiet_since = plan.started_ns + int(1e9)
    for one, following in zip(struck, [*struck[1:], None], strict=True):
        until_ns = following.began_ns if following else ended_ns
        before_ns = max(quiet_since, one.began_ns - int(REST_SECONDS * 1e9))
        result.add(one, history, sampler.samples, before_ns, until_ns)
    return result


def _plan(name: str, seed: int, faults: Sequence[Fault], folder: Path, rates: Mapping[Stream, float]) -> Plan:
    seconds = LEAD_SECONDS + sum(fault.seconds for fault in faults)
    return Plan(
        name=name,
        seed=seed,
        doors=[(address, 8080, 8081) for address in PROXIES],
        history=str(folder / f"{name}.history"),
        seconds=seconds,
        rates={str(stream): rate for stream, rate in rates.items()},
        started_ns=time.monotonic_ns(),
    )


def _prepare(cluster: Cluster, plan: Plan, *, is_witnessed: bool) -> int:
    """Links where they are to be; the witness listens. Returns how many codes have counts already."""
    cluster.wait_until_whole()
    stores.insert_links(cluster, plan)
    asyncio.run(stores.make_known(cluster, plan))
    if is_witnessed:
        witness.watch(NODES)
    return stores.codes_counted(cluster)


def _strike(cluster: Cluster, fault: Fault, chance: random.Random) -> Struck:
    began_ns, began_at = time.monotonic_ns(), time.time()
    whom = fault.strike(cluster, chance)
    over_ns = time.monotonic_ns()
    cluster.wait_until_whole(150)
    replaced_seconds = cluster.promoted_at() - began_at
    return Struck(
        fault.name,
        fault.role,
        whom,
        began_ns,
        over_ns,
        time.monotonic_ns(),
        replaced_seconds if replaced_seconds > 0 else None,
    )


def _drain(cluster: Cluster, plan: Plan, history: History) -> tuple[float, dict[str, float]]:
    """Until nothing is on its way any more and no count moves; how long it took, and what was left at the limit."""
    began = time.monotonic()
    left: dict[str, float] = {}
    watched = plan.codes(Stream.BEAT, Stream.HOT)[:20]
    counts: list[dict[str, int]] = []

    def is_still() -> bool:
        left.update(stores.left_in(cluster))
        counts.append(stores.counts_of(NODES[0], 8081, watched))
        return not any(left.values()) and len(counts) > 2 and counts[-1] == counts[-3]

    with contextlib.suppress(AssertionError):
        wait_for(is_still, "all has arrived", DRAIN_SECONDS, every_seconds=0.5)
    return time.monotonic() - began, left


def _evidence(
    cluster: Cluster,
    plan: Plan,
    history: History,
    left: Mapping[str, float],
    strangers_before: int,
    *,
    is_witnessed: bool,
) -> Evidence:
    stores.wait_until_replayed(cluster)
    counts = stores.counts_of(NODES[0], 8081, plan.codes(*REDIRECTS))
    links, keys = stores.links_of(cluster, plan)
    published = _published(cluster) if is_witnessed else {}
    ours = sum(1 for count in counts.values() if count)
    return Evidence(
        plan=plan,
        history=history,
        counts=counts,
        strangers=stores.codes_counted(cluster) - strangers_before - ours,
        links=links,
        keys=keys,
        left=left,
        dead_letters=cluster.messages_in("access_logs.dead"),
        digests=stores.redis_digests(cluster),
        published=published,
        counted=stores.numbers_counted(cluster.redis_master(), sorted(published)),
    )


def _published(cluster: Cluster) -> dict[str, set[int]]:
    """Of the epochs that were heard of just now: all of their numbers, those of earlier legs included."""
    heard = witness.heard(NODES)
    for epoch, numbers in heard.items():
        cluster.published.setdefault(epoch, set()).update(numbers)
    return {epoch: cluster.published[epoch] for epoch in heard}


def _slow(fast_share: float | None) -> list[Violation]:
    if fast_share is None or fast_share >= LEAST_FAST_SHARE:
        return []
    return [Violation("slow way", f"{fast_share:.2%} of the redirects of links in memory took the fast way")]


def totals(history: History) -> dict[str, int]:
    totals: dict[str, int] = {}
    for request in history.requests:
        totals[request.stream] = totals.get(request.stream, 0) + 1
        if request.outcome is not Outcome.OK:
            how = f"{request.stream} {request.detail}"
            totals[how] = totals.get(how, 0) + 1
    return totals


def _by_time(violations: Sequence[Violation], checker: str, from_ns: int, until_ns: int) -> int:
    """Of accesses that can be told by their time: one-shot codes."""
    return sum(v.by for v in violations if v.checker == checker and from_ns <= v.at_ns < until_ns)
