"""The report of a drill, from results as a drill leaves them."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from drill.checkers import Violation
from drill.figures import Struck, figures
from drill.goals import missed
from drill.history import History, Outcome, Request, Stream
from drill.leg import Result
from drill.plots import plot_of
from drill.programme import brief, has_passed
from drill.report import write_report
from drill.sampler import Sample

SECOND = 1_000_000_000


def redirect(at: float, outcome: Outcome = Outcome.OK, seconds: float = 0.002) -> Request:
    ns = int(at * SECOND)
    detail = "307" if outcome is Outcome.OK else "broken"
    return Request(0, Stream.HOT, "hot", ns, ns, ns + int(seconds * SECOND), outcome, detail)


def result(*violations: Violation) -> Result:
    """A second of redirects before a kill, half a second of failures after it, and well again."""
    kept = Result("kills", 1, 3.0, 0.5, 4.0, {"hot": 40}, 1.0, list(violations))
    requests = [
        redirect(number / 10, Outcome.INFO if 10 <= number < 15 else Outcome.OK, 0.02 if number > 15 else 0.002)
        for number in range(40)
    ]
    looks = [Request(0, Stream.COUNT, "hot", 0, int(0.5 * SECOND), int(0.6 * SECOND), Outcome.OK, "4")]
    struck = Struck("Redis master, killed", "Redis master", "redis of 127.0.1.1", SECOND, SECOND + 1, 2 * SECOND)
    kept.add(struck, History([*requests, *looks]), [Sample(SECOND + 5, 7, 100.0, 0.75)], 0, 4 * SECOND)
    return kept


def kept_in(folder: Path, **others: Any) -> dict[str, Any]:
    """As the drill keeps a step's result."""
    kept = {
        **result(Violation("lost", "hot: 9 < 10", 3)).as_kept(),
        "words": "Redis master, killed",
        "commit": "abc1234",
        **others,
    }
    (folder / f"{kept['step']}.json").write_text(json.dumps(kept))
    return kept


def test_the_figures_of_a_fault_are_those_of_its_time() -> None:
    (strike,) = result().strikes
    figures = strike["figures"]
    assert figures["redirects"] == {"asked": 30, "broken": 5}
    assert figures["redirect_gap_seconds"] == pytest.approx(0.1)
    assert figures["redirect_ms"]["p99"] == pytest.approx(20)
    assert figures["redirect_ms_before"]["p99"] == pytest.approx(2)
    assert figures["queue_peak"] == 7
    assert figures["busy_most"] == 0.75
    assert sum(strike["curves"]["failed"]) == 5


def test_a_time_without_creates_belongs_to_the_fault_in_whose_time_it_is() -> None:
    created = [Request(0, Stream.CREATE, str(n), n, n, n * SECOND, Outcome.OK, "code") for n in (1, 2, 3, 9, 10)]
    struck = [Struck("a", "a", "a", 2 * SECOND, 0, 0), Struck("b", "b", "b", 4 * SECOND, 0, 0)]
    first, second = (
        figures(History(created), [], one, one.began_ns - 1, until * SECOND)["create_gap_seconds"]
        for one, until in zip(struck, (4, 12), strict=True)
    )
    assert (first, second) == (1, 6)


def test_a_plot_is_one_well_formed_drawing() -> None:
    drawing = ElementTree.fromstring(plot_of(result().strikes[0]))
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(drawing.findall(".//{http://www.w3.org/2000/svg}path")) > 5


def test_a_leg_passes_without_a_finding_and_a_control_with_its_own() -> None:
    assert has_passed({"found": {}, "expected": ""})
    assert not has_passed({"found": {"lost": 1}, "expected": ""})
    assert has_passed({"found": {"lost": 1, "not drained": 2}, "expected": "lost"})
    assert not has_passed({"found": {"duplicated": 1}, "expected": "lost"})


def test_the_report_tells_of_every_step_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "brief-4"
    folder.mkdir()
    kept_in(folder, step="kills", control="", expected="")
    control = next(step for step in brief(4) if step.control)
    kept_in(folder, step=control.name, control="without dedup", expected="lost")
    page = write_report(folder).read_text()
    assert "Redis master, killed" in page
    assert "without dedup" in page
    assert "redirects of known links failed" in page  # a goal that was missed
    assert "this abc1234" in page
    assert 'href="http' not in page
    assert "<script" not in page
    assert json.loads((folder / "report.json").read_text())["done"] == 2


def strike(role: str, how: str, **figures: Any) -> dict[str, Any]:
    """A fault after which all was as before, but for these figures."""
    quiet = {"p99": 5.0}
    well = {
        "redirects": {"asked": 100},
        "redirect_ms_before": quiet,
        "redirect_ms": quiet,
        "cold_ms": quiet,
        "create_gap_seconds": 0.1,
        "fresh_after_seconds": 0.0,
        "busy_most": 0.9,
        "replaced_seconds": None,
        "cold": {"asked": 9},
        "creates": {"asked": 9},
    }
    return {"fault": f"{role}, {how}", "role": role, "harm_seconds": 15.0, "figures": {**well, **figures}}


@pytest.mark.parametrize(
    ("role", "how", "figures", "words"),
    [
        (
            "Redis master",
            "killed",
            {"redirects": {"asked": 9, "broken": 2}},
            "2 redirects of known links failed; goal 0",
        ),
        ("shortener", "killed", {"redirects": {"asked": 9, "broken": 2}}, "2 redirects of known links failed; goal 0"),
        ("node", "killed", {"redirects": {"asked": 9, "broken": 2}}, "2 redirects of known links failed; goal 0"),
        (
            "all Redis",
            "away 30 s",
            {"redirects": {"asked": 9, "broken": 2}},
            "2 redirects of known links failed; goal 0",
        ),
        (
            "etcd leader",
            "killed",
            {"redirect_ms": {"p99": 25.0}},
            "p99 25 ms; goal 5 times the 5.0 ms before; of the machine 90% were in use in its busiest second",
        ),
        ("PostgreSQL primary", "killed", {"create_gap_seconds": 4.0}, "no create for 4.0 s; goal 4 s"),
        (
            "PostgreSQL primary",
            "killed",
            {"create_gap_seconds": 5.0, "replaced_seconds": 4.3},
            "no create for 5.0 s, and another was primary after 4.3 s; goal 4 s",
        ),
        (
            "PostgreSQL primary",
            "hung 15 s",
            {"create_gap_seconds": 16.0},
            "no create for 16.0 s; goal its 15 s and 1 s",
        ),
        ("Redis master", "killed", {"fresh_after_seconds": 4.0}, "counts fresh after 4.0 s; goal 4 s"),
        ("analytics", "killed", {"fresh_after_seconds": 4.0}, "counts fresh after 4.0 s; goal 4 s"),
        ("RabbitMQ follower", "killed", {"fresh_after_seconds": 1.0}, "counts fresh after 1.0 s; goal 1 s"),
        ("RabbitMQ leader", "hung 15 s", {"cold_ms": {"p99": 1001.0}}, "cold codes p99 1001 ms; goal 1 s"),
        ("analytics", "hung 15 s", {"fresh_after_seconds": 20.0}, "counts fresh after 20.0 s; goal 20 s"),
        ("all PostgreSQL", "away 30 s", {"cold_ms": {"p99": 1001.0}}, "cold codes p99 1001 ms; goal 1 s"),
        (
            "all PostgreSQL",
            "away 30 s",
            {"cold": {"asked": 9, "503-again": 5, "504": 2}},
            "cold codes answered otherwise than 503 with Retry-After: 2 504",
        ),
        (
            "all PostgreSQL",
            "away 30 s",
            {"creates": {"asked": 9, "503-again": 5, "timeout": 1}},
            "creates answered otherwise than 503 with Retry-After: 1 timeout",
        ),
    ],
)
def test_a_goal_that_is_missed_is_said(role: str, how: str, figures: dict[str, Any], words: str) -> None:
    assert missed(strike(role, how)) == []
    assert [one.words for one in missed(strike(role, how, **figures))] == [words]


def test_who_is_told_to_come_again_misses_no_goal_while_postgresql_is_away() -> None:
    answers = {"asked": 9, "503-again": 9}
    assert missed(strike("all PostgreSQL", "away 30 s", cold=answers, creates=answers)) == []


@pytest.mark.parametrize(("role", "how"), [("nginx", "killed"), ("shortener", "hung 15 s"), ("node", "hung 2 s")])
def test_what_has_no_goal_misses_none(role: str, how: str) -> None:
    assert missed(strike(role, how, redirects={"asked": 9, "broken": 2})) == []
