"""The analytics' door: how often, when and by whom links were followed."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query
from starlette.responses import Response
from starlette.types import ASGIApp

from urlshortener.errors import InvalidParameter, NotFound
from urlshortener.links.code import could_be_a_link
from urlshortener.links.link import Destination
from urlshortener.services import door, openapi
from urlshortener.services.caller import Guard
from urlshortener.services.http import Readiness, json_answer
from urlshortener.services.measured import Measured
from urlshortener.stats.series import Interval, buckets, fold, parse_zone
from urlshortener.stats.store import LinkStats, StatsStore

SERVICE_NAME = "analytics-service"

_TITLE = "URL shortener: analytics"
_WORDS = (
    "How often, when and by whom short links were followed. Every redirect is counted once. Every error is a problem "
    "(RFC 9457) with a stable code; times are RFC 3339 in UTC."
)
_PREFIX = "/api/v1/analytics"


class ShownStats(msgspec.Struct, frozen=True):
    """How often a link was followed, when last, and by how many."""

    code: str
    access_count: Annotated[int, msgspec.Meta(description="Everybody; programs are part of it.")]
    last_accessed_at: datetime | None
    bots: Annotated[int, msgspec.Meta(description="Those of them that were programs.")]
    visitors: Annotated[int, msgspec.Meta(description="The sum of each day's distinct visitors, within 2 %.")]


class ShownStatsPage(msgspec.Struct, frozen=True):
    """Some links, the most followed first."""

    items: list[ShownStats]
    total: Annotated[int, msgspec.Meta(description="How many links were ever followed.")]


class Bucket(msgspec.Struct, frozen=True):
    """An hour or a day of the time zone that was asked for."""

    at: Annotated[datetime, msgspec.Meta(description="Where it begins.")]
    count: int


class Series(msgspec.Struct, frozen=True):
    """How often a link was followed in each hour or day, those without a visit included."""

    interval: Interval
    items: list[Bucket]


_STATS = {
    "code": "cat",
    "access_count": 1204,
    "last_accessed_at": "2030-01-01T10:00:00.123456Z",
    "bots": 31,
    "visitors": 870,
}
_SERIES = {"interval": "hour", "items": [{"at": "2030-01-01T10:00:00Z", "count": 12}]}


_START = "Without it: 24 hours, or 30 days, before the end."
_END = "Without it: now."
_DEFAULT_SPAN = {"hour": timedelta(hours=24), "day": timedelta(days=30)}
_TIME = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)])


class _Analytics:
    """The routes below /api/v1/analytics."""

    def __init__(
        self,
        stats: StatsStore,
        find: Callable[[str], Awaitable[Destination | None]],
        retention: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._stats = stats
        self._find = find
        self._retention = retention
        self._now = now

    async def top(
        self,
        limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
        offset: Annotated[int, Query(ge=0, le=1_000_000_000, description="How many to leave out.")] = 0,
    ) -> Response:
        page = await self._stats.top(limit, offset)
        return json_answer(ShownStatsPage([_shown(stats) for stats in page.items], page.total))

    async def of(self, code: str) -> Response:
        return json_answer(_shown(await self._of(code)))

    async def series(
        self,
        code: str,
        interval: Annotated[Interval, Query(description="How long a bucket is.")] = "hour",
        start: Annotated[str | None, Query(description="A time with its zone, or a date. " + _START)] = None,
        end: Annotated[str | None, Query(description="The first moment that is not asked for. " + _END)] = None,
        timezone: Annotated[str, Query(description="Whose hours and days, and what dates mean.")] = "UTC",
    ) -> Response:
        zone = parse_zone(timezone)
        until = self._now() if end is None else _moment(end, "end", zone)
        self._check_kept(until, "end")
        if start is None:
            since = max(until - _DEFAULT_SPAN[interval], self._kept_since())
        else:
            since = _moment(start, "start", zone)
            self._check_kept(since, "start")
        into = buckets(interval, since, until, zone)
        await self._of(code)
        quarters = await self._stats.quarters(code, into.start, into.end)
        return json_answer(Series(interval, [Bucket(at, count) for at, count in fold(quarters, into)]))

    def _check_kept(self, at: datetime, name: str) -> None:
        """Zeros for what was forgotten would be a lie."""
        if at < self._kept_since():
            raise InvalidParameter(f"{name}: the series reach back for {self._retention.days} days only.", name)

    def _kept_since(self) -> datetime:
        return self._now() - self._retention

    async def _of(self, code: str) -> LinkStats:
        """Counts prove that there is a link; only without any the database is asked."""
        if not could_be_a_link(code):
            raise NotFound("No link has this code.")
        stats = await self._stats.of(code)
        if stats is None and await self._find(code) is None:
            raise NotFound("No link has this code.")
        return stats or LinkStats(code, 0, 0, 0, None)


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_UNESCAPED_PLUS = re.compile(r"(T.*) (\d{2}:\d{2})", re.ASCII)


def _moment(text: str, name: str, zone: tzinfo) -> datetime:
    """A time with its zone, or the beginning of a date in the zone that was asked for, as a time in UTC."""
    text = _UNESCAPED_PLUS.sub(r"\1+\2", text)  # a + that was not escaped arrives as a blank
    try:
        if _DATE.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), zone).astimezone(UTC)
        at: datetime = _TIME.decode(msgspec.json.encode(text))
        return at.astimezone(UTC)
    except (ValueError, OverflowError):  # msgspec's errors are ValueErrors
        raise InvalidParameter(
            f"{name}: a time with its zone, as 2030-01-31T12:00:00Z, or a date is wanted.", name
        ) from None


def _shown(stats: LinkStats) -> ShownStats:
    return ShownStats(
        code=stats.code,
        access_count=stats.access_count,
        last_accessed_at=stats.last_accessed_at and stats.last_accessed_at.astimezone(UTC),
        bots=stats.bots,
        visitors=stats.visitors,
    )


def analytics_app(
    stats: StatsStore,
    find: Callable[[str], Awaitable[Destination | None]],
    readiness: Readiness,
    *,
    now: Callable[[], datetime],
    series_retention: timedelta,
    admin_token: str = "",
) -> ASGIApp:
    """All that is served on the analytics' main port. `find` tells whether there ever was a link with a code."""
    app = door.new()
    _add_analytics(app, _Analytics(stats, find, series_retention, now), Guard(admin_token).dependencies())
    door.add_probes(app, SERVICE_NAME, readiness)
    made = openapi.document(app, _TITLE, _WORDS, [ShownStats, ShownStatsPage, Bucket, Series], {})
    # Below the prefix too: behind one Ingress only that leads here.
    door.add_documents(app, made, below=_PREFIX)
    door.add_front_page(app, SERVICE_NAME, _TITLE, "How often short links are followed.")
    return Measured(app, SERVICE_NAME)


def _add_analytics(app: FastAPI, analytics: _Analytics, admin: list[Any]) -> None:
    def add(path: str, handler: Callable[..., Any], summary: str, **words: Any) -> None:
        app.add_api_route(path, handler, methods=["GET"], summary=summary, response_class=Response, **words)

    page = {"items": [_STATS], "total": 1}
    add(
        _PREFIX, analytics.top, "List links, most followed first",
        dependencies=admin,
        responses=openapi.answers(200, "A page of counts.", ShownStatsPage, page, 401, 422, 503),
    )  # fmt: skip
    add(
        _PREFIX + "/{code}", analytics.of, "How often a link was followed",
        responses=openapi.answers(200, "The counts; 0 where nobody followed it.", ShownStats, _STATS, 404, 503),
    )  # fmt: skip
    add(
        _PREFIX + "/{code}/series", analytics.series, "When a link was followed",
        responses=openapi.answers(200, "Hours or days, empty ones included.", Series, _SERIES, 404, 422, 503),
    )  # fmt: skip
