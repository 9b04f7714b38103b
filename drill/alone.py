"""`urlshortener run`, killed again and again under load: the same promises, and the same checkers, with two files."""

import asyncio
import contextlib
import random
import sqlite3
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from drill.checkers import Evidence, check, falls
from drill.figures import Struck
from drill.history import KNOWN, History, Stream
from drill.http_client import ask_all
from drill.leg import DRAIN_SECONDS, Load, Result, Say, totals
from drill.load import Plan, target_of
from drill.servers import Member, gives_200, metric, wait_for
from drill.stores import counts_of

ADDRESS = "127.0.1.20"
RATES = {Stream.ONE_SHOT: 40.0, Stream.HOT: 140.0, Stream.BEAT: 20.0, Stream.CREATE: 10.0, Stream.COUNT: 20.0}
_PROGRAM = (sys.executable, "-m", "urlshortener")
_SECONDS_A_KILL = 8.0
_KILLED_AT_START, _LONGEST_START_SECONDS = 0.3, 1.0


class Alone(Member):
    """The whole system as one process, on SQLite."""

    restart_seconds = 0.2

    def __init__(self) -> None:
        super().__init__("run", ADDRESS, 8080)
        self.data = self.folder / "data"

    def _command(self) -> list[str]:
        return [*_PROGRAM, "run"]

    def _environment(self) -> Mapping[str, str]:
        return {"HOST": self.address, "DATA_DIR": str(self.data)}

    def _answers(self) -> bool:
        return gives_200(f"http://{self.address}:9090/ready")

    def dead_letters(self) -> int:
        """How many events were set aside, as the program tells."""
        told = self._run(*_PROGRAM, "dead-letters", "show")
        return 0 if told == "There are no dead letters." else len(told.splitlines())

    @property
    def is_drained(self) -> bool:
        return metric(f"http://{self.address}:9090", "spool_bytes") == 0


def run_alone(name: str, kills: int, seed: int, folder: Path, say: Say) -> Result:
    chance = random.Random(seed)
    with Alone() as system:
        system.start()
        plan = Plan(
            name=name,
            seed=seed,
            doors=[(ADDRESS, 8080, 8081)],
            history=str(folder / f"{name}.history"),
            seconds=10 + kills * _SECONDS_A_KILL,
            rates={str(stream): rate for stream, rate in RATES.items()},
        )
        asyncio.run(_make_links(plan))
        plan = replace(plan, started_ns=time.monotonic_ns() + int(1e9))
        struck = []
        with Load(plan, say) as load:
            time.sleep(4)
            for number in range(1, kills + 1):
                load.what = f"run, killed for the {number}. time"
                struck.append(_kill(system, chance))
        ended_ns = time.monotonic_ns()
        history = History.read(Path(plan.history))
        began = time.monotonic()
        with contextlib.suppress(AssertionError):
            wait_for(lambda: system.is_drained, "all is counted", DRAIN_SECONDS)
        evidence = _evidence(system, plan, history)
        violations = check(evidence)
        result = Result(
            name=name,
            seed=seed,
            lag_ms=round(history.lag_ms, 1),
            busy=load.busy,
            seconds=(ended_ns - plan.started_ns) / 1e9,
            asked=totals(history),
            drained_seconds=time.monotonic() - began,
            violations=violations,
            falls=[asdict(fall) for fall in falls(history)],
        )
    for one, following in zip(struck, [*struck[1:], None], strict=True):
        until_ns = following.began_ns if following else ended_ns
        before_ns = max(plan.started_ns, one.began_ns - int(2e9))
        result.add(one, history, [], before_ns, until_ns)
    if not violations:
        Path(plan.history).unlink()
    return result


def _kill(system: Alone, chance: random.Random) -> Struck:
    """At any moment; some are killed once more while they start."""
    began_ns = time.monotonic_ns()
    system.kill()
    time.sleep(system.restart_seconds)
    if chance.random() < _KILLED_AT_START:
        system.launch()
        time.sleep(chance.uniform(0, _LONGEST_START_SECONDS))
        system.kill()
        time.sleep(system.restart_seconds)
    over_ns = time.monotonic_ns()
    system.start()
    whole_ns = time.monotonic_ns()
    time.sleep(chance.uniform(0, 2))
    return Struck("run, killed", "run", str(system), began_ns, over_ns, whole_ns)


async def _make_links(plan: Plan) -> None:
    asked = []
    for code in plan.codes(*KNOWN):
        body = f'{{"url":"{target_of(code)}","code":"{code}"}}'
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        asked.append(f"POST /api/v1/urls HTTP/1.1\r\nHost: drill\r\n{kind}\r\n\r\n{body}".encode())
    answers = await ask_all((ADDRESS, 8080), asked)
    assert all(answer.status == 201 for answer in answers)


def _evidence(system: Alone, plan: Plan, history: History) -> Evidence:
    counts = counts_of(ADDRESS, 8081, plan.codes(*KNOWN))
    left = {} if system.is_drained else {"spool": 1.0}
    with contextlib.closing(sqlite3.connect(system.data / "links.db")) as database:
        links = dict(database.execute("SELECT code, target FROM links WHERE target LIKE '%-create-%'").fetchall())
        keys: dict[str, list[str]] = {}
        asked = "SELECT k.key, l.code FROM idempotency_keys k JOIN links l ON l.id = k.link_id"
        for key, code in database.execute(asked):
            keys.setdefault(key, []).append(code)
    return Evidence(plan, history, counts, 0, {"run": links}, {"run": keys}, left, system.dead_letters())
