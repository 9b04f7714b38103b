"""The access log: off, unless a share of the requests is asked for."""

from typing import Any

import pytest

from urlshortener.services.access_log import Logged
from urlshortener.telemetry import Sampling


async def _app(scope: Any, receive: Any, send: Any) -> None:
    scope["route_template"], scope["response_status"] = "/{code}", 307


async def _ask(app: Logged, times: int) -> None:
    for _ in range(times):
        await app({"type": "http", "method": "GET", "path": "/cat"}, _nothing, _nothing)


async def _nothing(*_: Any) -> Any:
    return {}


async def test_a_share_of_the_requests_is_logged_without_their_codes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        await _ask(Logged(_app, "shortener-service", Sampling(0.5)), 400)
    lines = [vars(record) for record in caplog.records if record.message == "request"]
    assert 120 < len(lines) < 280
    assert (lines[0]["route"], lines[0]["status"], lines[0]["method"]) == ("/{code}", 307, "GET")
    assert "cat" not in str(lines)


async def test_without_a_share_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        await _ask(Logged(_app, "shortener-service", Sampling(0)), 50)
    assert caplog.records == []
