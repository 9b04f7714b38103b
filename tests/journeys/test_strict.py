"""SPOOL_MODE=strict in one process: who was answered is counted, at that very moment."""

import httpx

from tests.journeys.systems import Process


def test_whoever_was_answered_is_counted_already() -> None:
    with Process("run", {"SPOOL_MODE": "strict"}) as process:
        process.start()
        shortener, analytics = process.urls
        httpx.post(f"{shortener}/api/v1/urls", json={"url": "https://example.com/", "code": "cat"})
        for visits in range(1, 6):
            assert httpx.get(f"{shortener}/cat").status_code == 307
            assert httpx.get(f"{analytics}/api/v1/analytics/cat").json()["access_count"] == visits
