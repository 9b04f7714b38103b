"""Redirects that are traced take the fast way too, and their spans are those of the ordinary one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.services.two_ways import BROWSER, PROXY, STRANGER, Both, Side, asking, fast_ones
from urlshortener.services import fast_redirect, traced
from urlshortener.services.fast_traces import FastTraces
from urlshortener.services.traced import Tracing
from urlshortener.telemetry import REGISTRY, Sampling

_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def tracing(flags: str, more: bytes = b"") -> bytes:
    return asking("cat", BROWSER + f"traceparent: 00-{_TRACE}-{_SPAN}-{flags}\r\n".encode() + more)


@pytest.fixture
def by_proxy(tmp_path: Path) -> Both:
    """Nobody is drawn: only a trusted proxy's traces are continued."""
    return Both(tmp_path, ratio=0)


def test_a_redirect_that_a_trusted_proxy_traces_takes_the_fast_way(by_proxy: Both) -> None:
    assert fast_ones(lambda: by_proxy.say(PROXY, tracing("01"))) == 1
    told = by_proxy.say(PROXY, tracing("01", b"tracestate: edge=1\r\nTraceState: other=2\r\n"))
    redirect, spool = told.spans
    assert redirect.startswith(f"{_TRACE} request 0 edge=1,other=2; {_SPAN} 0x300; GET /{{code}} ")
    assert spool.startswith(f"{_TRACE} request 0, spool access event ")
    assert f'"traceparent":"00-{_TRACE}-request 0-01"'.encode() in told.events


def test_of_several_in_one_piece_each_has_its_own_trace(by_proxy: Both) -> None:
    told = by_proxy.say(PROXY, tracing("01", b"tracestate: a=1\r\n") + tracing("00") + tracing("03") + asking("cat"))
    assert told.answers.count(b" 307 ") == 4
    assert told.events.count(b'"traceparent"') == 2
    assert len(told.spans) == 4
    assert sum(" a=1; " in span for span in told.spans) == 2


def test_one_that_is_drawn_takes_it_too_and_what_a_stranger_calls_his_trace_is_not_continued(tmp_path: Path) -> None:
    everybody = Both(tmp_path, ratio=1)
    assert fast_ones(lambda: everybody.say(STRANGER, tracing("01"))) == 1
    told = everybody.say(STRANGER, tracing("01"))
    assert len(told.spans) == 2
    assert _TRACE not in str(told)
    assert everybody.say(PROXY, tracing("00")).spans == []


def test_one_that_failed_is_told_of_traced_or_not(tmp_path: Path) -> None:
    strict = Both(tmp_path, strict=True, ratio=0)
    refused, _ = strict.say(PROXY, tracing("01")).spans
    assert "('error.type', '503')" in refused and "STATUS_CODE_ERROR" in refused
    for flags in ("00", "01"):
        told = strict.say(PROXY, tracing(flags), asking("cat"))
        assert told.answers.count(b" 503 ") == 2
        assert sum("('urlshortener.kept_because', 'failed')" in span for span in told.spans) == 1 + (flags == "00")


def test_so_is_one_that_was_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fast_redirect, traced):
        monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    side = Side(tmp_path, is_fast=True, ratio=0)
    [span] = asyncio.run(side.says(STRANGER, [asking("cat")])).spans
    assert "('urlshortener.kept_because', 'slow')" in span and "('http.response.status_code', 307)" in span


def test_the_times_of_redirects_lead_to_a_trace(tmp_path: Path) -> None:
    asyncio.run(Side(tmp_path, is_fast=True, ratio=0).says(PROXY, [tracing("01")]))
    [seconds] = [metric for metric in REGISTRY.collect() if metric.name == "http_request_duration_seconds"]
    found = [sample.exemplar.labels["trace_id"] for sample in seconds.samples if sample.exemplar]
    assert _TRACE in found


def test_of_those_that_nobody_decided_about_a_share_is_traced_whole_turns_at_a_time() -> None:
    traces = FastTraces(Tracing(Sampling(0.1)))
    undecided, unsampled, sampled = (
        (b"code", b"", b"", b"", traceparent, b"") for traceparent in (b"", b"00-1-2-00", b"00-1-2-01")
    )
    asked: Any = [(None, b"https://example.com/", head, b"") for head in (undecided, unsampled, sampled, undecided)]
    turns = 20_000
    drawn = 0
    for _ in range(turns):
        turn = traces.begun(asked, 0)
        assert turn is not None
        assert [2 in turn, 1 in turn] == [True, False]
        assert (0 in turn) is (3 in turn)
        drawn += 0 in turn
    assert 0.09 * turns < drawn < 0.11 * turns
