"""What a drill consists of, in which order, and how it goes on where it stopped."""

import json
import random
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drill import faults
from drill.alone import run_alone
from drill.checkers import Violation
from drill.cluster import Cluster
from drill.controls import CONTROLS, Control
from drill.faults import Fault
from drill.leg import Result, Say, rates_for, run_leg

KILLS = 30  # of each role, in a full drill
_KILLS_A_LEG = 10
_LEGS_A_CLUSTER = 20  # then it starts anew: counts and links of all legs stay in its stores


@dataclass(frozen=True)
class Step:
    """A leg: faults one after the other under load. Or a control, or the one process alone."""

    name: str
    faults: Sequence[Fault] = ()
    control: Control | None = None
    kills_alone: int = 0

    @property
    def is_strict(self) -> bool:
        return any(fault.strict for fault in self.faults)

    @property
    def words(self) -> str:
        if self.control:
            return f"control, {self.control.name}: {self.control.fault.name}"
        if self.kills_alone:
            return f"the one process alone, killed {self.kills_alone} times"
        return "; ".join(dict.fromkeys(fault.name for fault in self.faults))

    @property
    def is_witnessed(self) -> bool:
        return all(fault.witnessed for fault in self.faults)


def full(seed: int) -> list[Step]:
    """Every kill 30 times, all else twice, each control once. All roles come round by turns."""
    chance = random.Random(seed)
    legs = KILLS // _KILLS_A_LEG
    rounds = [
        [Step(f"kill-{n}-{i}", [fault] * _KILLS_A_LEG) for n, fault in enumerate(faults.KILLS)] for i in range(legs)
    ]
    for number in range(2):
        rounds[number] += [
            *(Step(f"hang-{number}-{n}", part) for n, part in enumerate(_parts(faults.HANGS, 12))),
            *(Step(f"other-{number}-{n}", part) for n, part in enumerate(_parts(faults.OTHERS, 6))),
            *(Step(f"long-{number}-{n}", part) for n, part in enumerate(_parts(faults.LONG, 3))),
            Step(f"unbound-{number}", [faults.UNBOUND]),
            Step(f"strict-{number}", [faults.LOST]),
        ]
    rounds[2] += [*_controls(), Step("alone", kills_alone=KILLS)]
    for steps in rounds:
        chance.shuffle(steps)
    return [step for steps in rounds for step in steps]


def short(seed: int) -> list[Step]:
    """Every fault and every control once, in few legs, as each takes time to begin and to come to rest. Who restarts
    everything restarts the services too."""
    return [
        Step("kill", [*faults.KILLS, *faults.HANGS]),
        Step("other", [*faults.OTHERS, *(fault for fault in faults.LONG if fault is not faults.SERVICES_RESTARTED)]),
        Step("unbound", [faults.UNBOUND]),
        Step("strict", [faults.LOST]),
        *_controls(),
        Step("alone", kills_alone=5),
    ]


def brief(seed: int) -> list[Step]:
    """Six kills and three controls: what fits beside the tests."""
    roles = ("PostgreSQL primary", "RabbitMQ leader", "Redis master", "analytics", "shortener", "node")
    kills = {fault.role: fault for fault in faults.KILLS if fault.how == "killed"}
    wanted = ("no_dedup", "early_acknowledgement", "no_spool")
    return [
        Step("kills", [kills[role] for role in roles]),
        *(step for step in _controls() if step.control and step.control.unsafe in wanted),
    ]


def _controls() -> Iterator[Step]:
    return (Step(f"control-{number}", [control.fault], control) for number, control in enumerate(CONTROLS))


def _parts(all_faults: Sequence[Fault], of: int) -> Iterator[Sequence[Fault]]:
    return (all_faults[first : first + of] for first in range(0, len(all_faults), of))


def _commit() -> str:
    """What was drilled: a drill may be finished another day."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "?"


PROGRAMMES: dict[str, Callable[[int], list[Step]]] = {"full": full, "short": short, "brief": brief}


def has_passed(result: Mapping[str, Any]) -> bool:
    """A leg passes when nothing was found; a control, when its checker found what it had to."""
    if result["expected"]:
        return result["expected"] in result["found"]
    return not result["found"]


class Drill:
    """Runs the steps whose results are not in the folder yet."""

    def __init__(self, folder: Path, steps: Sequence[Step], seed: int, say: Say, redirects_a_second: float) -> None:
        self._folder, self._steps, self._seed, self._say = folder, steps, seed, say
        self._rates = rates_for(redirects_a_second)
        folder.mkdir(parents=True, exist_ok=True)
        self._cluster: Cluster | None = None
        self._legs = 0
        self._hold = ExitStack()

    @property
    def results(self) -> list[dict[str, Any]]:
        """Of the steps that are done, in the order of the programme."""
        files = (self._file(step) for step in self._steps)
        return [json.loads(file.read_text()) for file in files if file.exists()]

    def run(self, only: str = "") -> bool:
        """Whether all passed that are done. Steps without the words of `only` are left for another time."""
        with self._hold:
            for number, step in enumerate(self._steps, 1):
                if self._file(step).exists() or only not in step.words:
                    continue
                began = time.monotonic()
                self._say(f"step {number} of {len(self._steps)}: {step.words}")
                self._keep(step, self._run(step, number))
                self._say(
                    f"step {number} of {len(self._steps)}: {self._verdict(step)} ({time.monotonic() - began:.0f} s)"
                )
        return all(has_passed(result) for result in self.results)

    def _file(self, step: Step) -> Path:
        return self._folder / f"{step.name}.json"

    def _keep(self, step: Step, result: Result) -> None:
        kept = {
            **result.as_kept(),
            "step": step.name,
            "words": step.words,
            "control": step.control.name if step.control else "",
            "expected": step.control.checker if step.control else "",
            "commit": _commit(),
        }
        unfinished = self._file(step).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(kept))
        unfinished.rename(self._file(step))

    def _verdict(self, step: Step) -> str:
        result = json.loads(self._file(step).read_text())
        what = "nothing found" if not result["found"] else str(result["found"])
        return f"{'passed' if has_passed(result) else 'FAILED'}, {what}{', times void' if result['is_void'] else ''}"

    def _run(self, step: Step, number: int) -> Result:
        seed = self._seed * 1000 + number
        name = f"{step.name}-{secrets.token_hex(3)}"
        try:
            if step.kills_alone:
                return run_alone(name, step.kills_alone, seed, self._folder, self._say)
            result = self._run_on_cluster(step, name, seed)
            if result.found and not step.control:
                self._keep_logs(step)
            return result
        except (AssertionError, OSError, ExceptionGroup) as error:
            self._keep_logs(step)
            self._hold.close()
            self._cluster = None
            return Result(name, seed, 0, 0, 0, {}, 0, [Violation("did not recover", str(error))])

    def _keep_logs(self, step: Step) -> None:
        if self._cluster is not None:
            self._cluster.keep_logs(self._folder / f"{step.name}-logs")

    def _run_on_cluster(self, step: Step, name: str, seed: int) -> Result:
        cluster = self._started()
        with ExitStack() as changed:
            if step.control:
                changed.enter_context(step.control.taken_away(cluster))
            else:
                strict = {"SPOOL_MODE": "strict"}
                cluster.change_services(cluster.shorteners if step.is_strict else [], differs=strict)
            if step.is_strict or not step.is_witnessed:  # what the witness did not hear of is not of the next epochs
                changed.callback(cluster.outdate, cluster.shorteners)
            return run_leg(cluster, name, step.faults, seed, self._folder, self._say, self._rates)

    def _started(self) -> Cluster:
        if self._cluster is None or self._legs >= _LEGS_A_CLUSTER:
            self._hold.close()
            self._cluster = self._hold.enter_context(Cluster(self._say))
            self._cluster.start()
            self._legs = 0
        self._legs += 1
        return self._cluster
