"""What a visitor and an operator see of the spool's settings, in one process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.journeys.systems import Process


@contextmanager
def running(**settings: str) -> Iterator[Process]:
    """With a link `cat`."""
    with Process("run", settings) as process:
        process.start()
        httpx.post(f"{process.urls[0]}/api/v1/urls", json={"url": "https://example.com/", "code": "cat"})
        yield process


def counted(process: Process) -> int:
    return int(httpx.get(f"{process.urls[1]}/api/v1/analytics/cat").json()["access_count"])


def test_whoever_was_answered_by_a_strict_one_is_counted_already() -> None:
    with running(SPOOL_MODE="strict") as process:
        for visits in range(1, 6):
            assert httpx.get(f"{process.urls[0]}/cat").status_code == 307
            assert counted(process) == visits


def test_a_spool_without_any_room_stops_no_redirect_loses_none_and_stays_ready() -> None:
    with running(SPOOL_MAX_BYTES="1") as process:
        for _ in range(50):
            assert httpx.get(f"{process.urls[0]}/cat").status_code == 307
        assert httpx.get(f"{process.ops_urls[0]}/ready").status_code == 200
        end = time.monotonic() + 20
        while counted(process) < 50 and time.monotonic() < end:
            time.sleep(0.05)
        assert counted(process) == 50
        numbers = httpx.get(f"{process.ops_urls[0]}/metrics").text
        assert "\nevents_unspooled_total 0.0\n" in numbers
        assert "spool_full" in process.log_tail(200)
