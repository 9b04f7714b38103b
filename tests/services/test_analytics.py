"""The analytics' routes: each row of the contract."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.services.conftest import RETENTION, Clock, asking, followed
from tests.services.test_shortener import created, problem
from urlshortener.errors import StoreUnavailable
from urlshortener.services.analytics import analytics_app
from urlshortener.services.http import Readiness
from urlshortener.stats.sqlite import SqliteStats


async def no_database(_: str) -> None:
    raise StoreUnavailable("The database of links does not answer.")


async def test_counts_are_shown_without_asking_the_database(
    stats: SqliteStats, clock: Clock, readiness: Readiness
) -> None:
    at = clock.at - timedelta(minutes=5)
    await stats.record([followed("cat", number, at, visitor=f"{number % 2:032x}") for number in range(3)])
    app = analytics_app(stats, no_database, readiness, now=clock, series_retention=RETENTION)
    async with asking(app) as client:
        answer = await client.get("/api/v1/analytics/cat")
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["code"], shown["access_count"], shown["visitors"]) == ("cat", 3, 2)
    assert shown["last_accessed_at"] == "2026-11-23T09:55:00.123456Z"
    assert set(shown) == {"code", "access_count", "last_accessed_at", "bots", "visitors"}


async def test_a_known_link_that_nobody_followed_has_zero_and_null(
    analytics: httpx.AsyncClient, shortener: httpx.AsyncClient
) -> None:
    await created(shortener, code="cat")
    answer = await analytics.get("/api/v1/analytics/cat")
    expected = {"code": "cat", "access_count": 0, "last_accessed_at": None, "bots": 0, "visitors": 0}
    assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize("path", ["unknown", "%00", "%ff", "x" * 65, "unknown/series", "%00/series"])
async def test_an_unknown_code_is_a_404(analytics: httpx.AsyncClient, path: str) -> None:
    assert problem(await analytics.get(f"/api/v1/analytics/{path}"))[:2] == (404, "NOT_FOUND")


async def test_without_counts_and_without_a_database_it_is_a_503(
    stats: SqliteStats, clock: Clock, readiness: Readiness
) -> None:
    app = analytics_app(stats, no_database, readiness, now=clock, series_retention=RETENTION)
    async with asking(app) as client:
        answer = await client.get("/api/v1/analytics/cat")
    assert problem(answer)[:2] == (503, "STORE_UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"


async def test_a_deleted_link_keeps_its_counts(
    analytics: httpx.AsyncClient, shortener: httpx.AsyncClient, stats: SqliteStats, clock: Clock
) -> None:
    await created(shortener, code="cat")
    await stats.record([followed("cat", 1, clock.at)])
    await shortener.delete("/api/v1/urls/cat")
    assert (await analytics.get("/api/v1/analytics/cat")).json()["access_count"] == 1


async def test_the_most_followed_come_first(analytics: httpx.AsyncClient, stats: SqliteStats, clock: Clock) -> None:
    await stats.record([followed(code, number, clock.at) for number, code in enumerate(["a", "b", "b", "c", "c", "c"])])
    page = (await analytics.get("/api/v1/analytics?limit=2")).json()
    assert [(item["code"], item["access_count"]) for item in page["items"]] == [("c", 3), ("b", 2)]
    assert page["total"] == 3
    rest = (await analytics.get("/api/v1/analytics?limit=2&offset=2")).json()
    assert [item["code"] for item in rest["items"]] == ["a"]


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=101", "limit"), ("offset=-1", "offset"), ("offset=x", "offset")]
)
async def test_limits_of_the_list_are_said(analytics: httpx.AsyncClient, query: str, field: str) -> None:
    assert problem(await analytics.get(f"/api/v1/analytics?{query}")) == (422, "INVALID_PARAMETER", field)


async def test_only_the_list_needs_the_token(stats: SqliteStats, clock: Clock, readiness: Readiness) -> None:
    token = "a-token-of-the-tests"
    await stats.record([followed("cat", 1, clock.at)])
    app = analytics_app(stats, no_database, readiness, now=clock, series_retention=RETENTION, admin_token=token)
    async with asking(app) as client:
        assert problem(await client.get("/api/v1/analytics"))[:2] == (401, "UNAUTHORIZED")
        assert (await client.get("/api/v1/analytics", headers={"X-Api-Key": token})).status_code == 200
        assert (await client.get("/api/v1/analytics/cat")).status_code == 200
        assert (await client.get("/api/v1/analytics/cat/series")).status_code == 200


async def series(client: httpx.AsyncClient, **parameters: Any) -> list[tuple[str, int]]:
    answer = await client.get("/api/v1/analytics/cat/series", params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.json()["interval"] == parameters.get("interval", "hour")
    return [(item["at"], item["count"]) for item in answer.json()["items"]]


async def test_a_series_is_of_the_last_24_hours_unless_told_otherwise(
    analytics: httpx.AsyncClient, stats: SqliteStats, clock: Clock
) -> None:
    await stats.record([followed("cat", number, clock.at - timedelta(hours=number)) for number in (1, 2, 30)])
    items = await series(analytics)
    assert (items[0][0], items[-1][0]) == ("2026-11-22T10:00:00Z", "2026-11-23T10:00:00Z")
    assert [at for at, count in items if count] == ["2026-11-23T08:00:00Z", "2026-11-23T09:00:00Z"]
    days = await series(analytics, interval="day")
    assert len(days) == 31 and sum(count for _, count in days) == 3


async def test_a_series_of_kathmandu_begins_its_days_at_1815(analytics: httpx.AsyncClient, stats: SqliteStats) -> None:
    at = datetime(2026, 11, 20, 18, 15, tzinfo=UTC)
    await stats.record([followed("cat", 1, at - timedelta(seconds=1)), followed("cat", 2, at)])
    asked = {"interval": "day", "start": "2026-11-20", "end": "2026-11-22", "timezone": "Asia/Kathmandu"}
    assert await series(analytics, **asked) == [("2026-11-19T18:15:00Z", 1), ("2026-11-20T18:15:00Z", 1)]


async def test_a_plus_that_was_not_escaped_is_understood(analytics: httpx.AsyncClient, stats: SqliteStats) -> None:
    await stats.record([followed("cat", 1, datetime(2026, 11, 20, 1, tzinfo=UTC))])
    query = "start=2026-11-20T05:45:00+05:45&end=2026-11-20T07:45:00+05:45"
    answer = await analytics.get(f"/api/v1/analytics/cat/series?{query}")
    assert [item["count"] for item in answer.json()["items"]] == [0, 1]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("interval=week", "interval"),
        ("start=yesterday", "start"),
        ("start=2026-11-20T00:00:00", "start"),
        ("start=2026-02-30", "start"),
        ("start=0001-01-01", "start"),
        ("end=0001-01-01T00:00:00Z", "end"),
        ("end=9999-12-31T23:59:59-14:00", "end"),
        ("start=9999-12-31&end=9999-12-31T23:59:59Z&interval=day", "start"),
        ("start=2026-11-21&end=2026-11-20", "end"),
        ("start=2025-01-01", "start"),
        ("start=2026-01-01&interval=hour", "start"),
        ("timezone=Mars", "timezone"),
        ("timezone=../etc/passwd", "timezone"),
        ("timezone=%00", "timezone"),
        ("start=%00", "start"),
    ],
)
async def test_a_series_that_cannot_be_is_a_422(
    analytics: httpx.AsyncClient, stats: SqliteStats, clock: Clock, query: str, field: str
) -> None:
    await stats.record([followed("cat", 1, clock.at)])
    assert problem(await analytics.get(f"/api/v1/analytics/cat/series?{query}")) == (422, "INVALID_PARAMETER", field)
