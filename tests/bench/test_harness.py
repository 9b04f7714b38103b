"""The harness works, from a filled database to checked counts. What it measures in a second means nothing."""

import re
import shutil
from xml.etree import ElementTree

import pytest

from bench import lag
from bench.__main__ import QUESTIONS, asked
from bench.harness import cores, page, traffic
from bench.harness.results import Results
from bench.harness.run import SMOKE
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
