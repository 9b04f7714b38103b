"""What spans are called, and which requests have them."""

import re
from pathlib import Path

import opentelemetry.semconv
import pytest
from opentelemetry.trace import SpanContext

from urlshortener.telemetry import Sampling, context_of
from urlshortener.telemetry.traces import _summary

ROOT = Path(__file__).parent.parent.parent


def test_every_attribute_is_ours_or_one_of_opentelemetrys() -> None:
    semconv = Path(opentelemetry.semconv.__path__[0])
    known = set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)+)"', "\n".join(f.read_text() for f in semconv.rglob("*.py"))))
    assert len(known) > 300
    used = set()
    for file in ("events/traces.py", "services/traced.py", "telemetry/traces.py", "stats/redis.py"):
        text = (ROOT / "src" / "urlshortener" / file).read_text()
        used |= set(re.findall(r'"((?:http|url|network|server|error|db|messaging|urlshortener)\.[a-z_.]+)"', text))
    assert len(used) > 15
    assert {name for name in used if not name.startswith("urlshortener.")} <= known


@pytest.mark.parametrize("ratio", [0.01, 0.3])
def test_sampling_draws_the_share_that_was_asked_for(ratio: float) -> None:
    sampling = Sampling(ratio)
    drawn = sum(sampling.drawn() for _ in range(100_000))
    assert ratio * 100_000 * 0.85 < drawn < ratio * 100_000 * 1.15


def test_all_are_drawn_at_one_and_none_at_zero() -> None:
    everything, nothing = Sampling(1), Sampling(0)
    assert all(everything.drawn() for _ in range(1000))
    assert not any(nothing.drawn() for _ in range(1000))


def test_what_the_fast_way_hands_over_is_drawn_once_and_nothing_else_instead() -> None:
    sampling = Sampling(0.5, chance=lambda: 0.7)  # every second one
    assert [sampling.drawn_early() for _ in range(4)] == [False, True, False, True]
    assert [sampling.drawn() for _ in range(4)] == [True, True, False, True]
    never = Sampling(0)
    assert not never.drawn_early()
    assert not never.drawn()


def test_a_traceparent_is_read_as_the_standard_says() -> None:
    found = context_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert isinstance(found, SpanContext)
    assert found.trace_flags.sampled
    for wrong in (
        "",
        "00-0-0-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-" + 32 * "0" + "-1-01",
    ):
        assert context_of(wrong) is None


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        ("SELECT links.id, links.code FROM links WHERE code = ANY($1)", "SELECT links"),
        ("INSERT INTO idempotency_keys (key, digest) VALUES ($1, $2)", "INSERT idempotency_keys"),
        ("UPDATE links SET target = 'https://secret.example/?a=b'", "UPDATE links"),
        ("COMMIT;", "COMMIT"),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", "BEGIN"),
        ("", "statement"),
    ],
)
def test_of_a_statement_only_verb_and_table_are_told(statement: str, summary: str) -> None:
    assert _summary(statement)[0] == summary
