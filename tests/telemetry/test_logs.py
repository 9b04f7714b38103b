"""Lines of the log: named, cut, escaped, about one request, and not too many."""

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from urlshortener.telemetry import LOG, LOG_LINES_SUPPRESSED, begun, said_in_logs, set_up_logs, trace_with, within
from urlshortener.telemetry.logs import EVENTS, Repeated

ROOT = Path(__file__).parent.parent.parent
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}


def _named() -> Iterator[tuple[str, ast.expr]]:
    """What each line of the code gives as its event."""
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                owner = node.func.value
                if getattr(owner, "id", getattr(owner, "attr", "")) == "LOG":
                    yield f"{file.name}:{node.lineno}", node.args[0]


def test_every_line_is_an_event_of_the_list_and_every_event_is_used() -> None:
    named = {place: event.value if isinstance(event, ast.Constant) else None for place, event in _named()}
    assert len(named) > 30
    assert {place: event for place, event in named.items() if event not in EVENTS} == {}
    assert set(EVENTS) - set(named.values()) == set()


def test_names_are_stable_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", event) for event in EVENTS)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the real set-up writes."""
    root = logging.getLogger()
    handlers, level, ours = list(root.handlers), root.level, LOG.level
    written = io.StringIO()
    _write_to(written, readable=False)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    LOG.setLevel(ours)


def _write_to(written: io.StringIO, *, readable: bool) -> None:
    set_up_logs("info", readable=readable)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)


def _said(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_line_is_json_with_values_cut_and_escaped(lines: io.StringIO) -> None:
    LOG.warning("broker_away", extra={"reason": "x" * 9000, "host": "a\nb\x1b[31m\u2028"})
    (said,) = _said(lines)
    assert (said["event"], said["level"]) == ("broker_away", "warning")
    assert len(said["reason"]) < 600
    assert said["host"] == "a\nb\x1b[31m\u2028"
    assert "\x1b" not in lines.getvalue()
    assert lines.getvalue().isascii()


def test_for_a_person_it_is_text_without_control_characters(lines: io.StringIO) -> None:
    _write_to(lines, readable=True)
    LOG.warning("broker_away", extra={"host": "a\nb\x1b[31m"})
    assert re.fullmatch(r'\d\d:\d\d:\d\d warning broker_away host="a\\nb\\u001b\[31m"\n', lines.getvalue())


async def test_a_line_says_which_request_and_which_trace_it_is_about(lines: io.StringIO) -> None:
    trace_with(TracerProvider(shutdown_on_exit=False).get_tracer("test"))
    try:
        said_in_logs(lambda: {"request_id": "the-clients-word"})
        with within(begun("GET /{code}", parent=None)) as span:
            LOG.warning("waiting")
    finally:
        trace_with(None)
    (said,) = _said(lines)
    found = span.get_span_context()
    assert (said["request_id"], said["trace_id"]) == ("the-clients-word", f"{found.trace_id:032x}")


def test_an_outage_is_no_log_of_its_own_and_what_is_left_out_is_counted() -> None:
    now = 0.0
    repeated = Repeated(clock=lambda: now)
    counted = LOG_LINES_SUPPRESSED.labels("waiting")._value.get()

    def let_through(event: str) -> logging.LogRecord | None:
        record = logging.makeLogRecord({"msg": event})
        return record if repeated.filter(record) else None

    assert sum(let_through("waiting") is not None for _ in range(100)) == 20
    assert let_through("ready") is not None
    assert all(let_through("request") for _ in range(100))
    assert LOG_LINES_SUPPRESSED.labels("waiting")._value.get() - counted == 80
    now = 11.0
    record = let_through("waiting")
    assert record is not None
    assert vars(record)["suppressed"] == 80
    again = let_through("waiting")
    assert again is not None
    assert "suppressed" not in vars(again)
