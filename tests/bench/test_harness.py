"""The harness works, from a filled database to checked counts. What it measures in a second means nothing."""

import math
import re
import shutil
from xml.etree import ElementTree

import pytest

from bench import lag
from bench.__main__ import QUESTIONS, asked
from bench.harness import cores, histogram, page, traffic
from bench.harness.results import Answer, Results
from bench.harness.run import SMOKE
from bench.harness.system import Lost
from tests.backends.postgresql import Postgresql
from urlshortener.telemetry import REGISTRY


@pytest.mark.skipif(not shutil.which("wrk") or not cores.enough(), reason="needs wrk, and two cores")
def test_a_question_is_asked_checked_and_answered(postgresql: Postgresql) -> None:
    results = asked(["redirects"], SMOKE, postgresql)
    [answer] = results.answers
    assert not answer.failure
    assert any(check.endswith("events in the spool") for check in answer.checks)
    assert any(line.startswith("core 1: wrk") for line in answer.processes)
    assert any(line == "core 0: shortener-service" for line in answer.processes)
    assert Results.from_json(results.as_json()) == results
    assert "× nginx" in page.as_text(results)


def test_every_question_says_what_it_asks() -> None:
    for name in QUESTIONS:
        assert __import__(f"bench.{name}", fromlist=["TITLE"]).TITLE


def test_ten_thousand_visitors_ask_for_ten_thousand_codes() -> None:
    visits = traffic.visits(traffic.codes(traffic.CODES), 20_000)
    assert len({code for code, _, _ in visits}) == traffic.CODES
    assert len({address for _, address, _ in visits}) == traffic.VISITORS


def test_the_page_of_the_lag_says_what_was_seen_and_its_picture_is_one_drawing() -> None:
    seen: list[tuple[float, float | None]] = [(-1.0, 0.0), (0.0, None), (1.0, 7.0)]
    watched = lag.Watched(500, 60, 12, 1.5, 30_000, 30_000, -1, dict.fromkeys(lag._QUERIES, seen))
    page = lag.page(watched, {"cores": "2"})
    for words in ("500 visitors a second", "30,000 are counted", "14 events waited", "7 s old", "| cores | 2 |"):
        assert words in page
    drawing = ElementTree.fromstring(lag.picture(watched))
    text = "".join(drawing.itertext())
    assert {name for name in lag._QUERIES if name in text} == set(lag._QUERIES)
    names = {name for query in lag._QUERIES.values() for name in re.findall(r"[a-z]+(?:_[a-z]+)+", query)}
    assert names - {"clamp_min"} <= set(REGISTRY._names_to_collectors)


def test_answers_that_are_kept_stand_in_the_order_of_the_questions() -> None:
    def results(*names: str, seconds: float) -> Results:
        return Results({"cores": "2"}, "usual", "", [Answer(name, "", "", seconds=seconds) for name in names])

    before, now = results("creates", "gone", "bulk", seconds=1), results("bulk", "redirects", seconds=2)
    kept = page.together(before, now, ["redirects", "creates", "bulk", "size"])
    assert [(answer.question, answer.seconds) for answer in kept.answers] == [
        ("redirects", 2),
        ("creates", 1),
        ("bulk", 2),
    ]


def test_a_histogram_tells_what_was_seen_between_two_looks() -> None:
    name = "event_loop_delay_seconds"
    before = {f'{name}_bucket{{le="{bound}"}}': 5.0 for bound in ("0.01", "0.02", "+Inf")}
    added = {"0.01": 90.0, "0.02": 99.0, "+Inf": 100.0}
    after = {f'{name}_bucket{{le="{bound}"}}': 5.0 + count for bound, count in added.items()}
    counts = histogram.seen(before, after, name)
    assert [histogram.at_most(counts, share) for share in (0.5, 0.95, 0.99, 0.999)] == [0.01, 0.02, 0.02, math.inf]
    assert histogram.between(counts, 0.45) == pytest.approx(0.005)
    with pytest.raises(Lost, match="nothing"):
        histogram.seen(after, after, name)


@pytest.mark.parametrize(
    ("there", "places"),
    [
        (range(2), cores.Places((0, 1), (0, 1), (0, 1))),
        (range(4), cores.Places((2, 3), (0,), (1,))),
        (range(8), cores.Places((4, 5, 6, 7), (0, 2, 3), (1,))),
    ],
)
def test_where_there_are_more_cores_service_proxy_and_load_have_their_own(
    there: range, places: cores.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(there))
    assert cores.shared_out() == places
