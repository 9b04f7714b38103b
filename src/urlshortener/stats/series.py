"""Accesses over time: hours and days as the clocks on somebody's wall show them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from urlshortener.errors import InvalidParameter
from urlshortener.stats.access import quarters_between

Interval = Literal["hour", "day"]

MOST_BUCKETS = 1_000

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Stretches of time, one behind the other without a gap. All times are UTC."""

    starts: Sequence[datetime]
    end: datetime  # of the last one

    @property
    def start(self) -> datetime:
        return self.starts[0]


def parse_zone(name: str) -> ZoneInfo:
    """The time zone with this IANA name. InvalidParameter for any other text; opens no file for it."""
    if name not in _zone_names():
        raise InvalidParameter("There is no such time zone; an IANA name as Europe/Berlin is needed.", "timezone")
    return ZoneInfo(name)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime", "Factory"})  # these mean something else on each machine


def buckets(interval: Interval, start: datetime, end: datetime, zone: tzinfo) -> Buckets:
    """The hours or days of the zone that [start, end) touches: the start is moved down to where its hour or day
    began, the end up to where its own is over.

    A day is a date on the wall, 23 to 25 hours long, and begins later than at midnight where midnight is skipped. An
    hour begins when the minutes are 00, so that one that comes twice is two buckets; where the clock is put by half
    an hour, one begins there too and is short. A date that nobody lived has no bucket.

    InvalidParameter if the end is not behind the start, or there are more than MOST_BUCKETS.
    """
    if start >= end:
        raise InvalidParameter("The end must be after the start.", "end")
    try:
        edges = _edges_around(interval, start, end, zone)
    except OverflowError:
        raise InvalidParameter("The calendar ends before that.", "start") from None
    return Buckets(edges[:-1], edges[-1])


def _edges_around(interval: Interval, start: datetime, end: datetime, zone: tzinfo) -> list[datetime]:
    edges: list[datetime] = []
    for edge in _hours(start, zone) if interval == "hour" else _days(start, zone):
        edges.append(edge)
        if edge >= end:
            break
        if len(edges) > MOST_BUCKETS:
            raise InvalidParameter(f"These are more than {MOST_BUCKETS} {interval}s; ask for fewer at a time.", "start")
    return edges


def fold(quarters: Mapping[int, int], into: Buckets) -> list[tuple[datetime, int]]:
    """How much fell into each bucket, empty ones included, from counts by number of the quarter of an hour.

    A quarter counts where it begins, and nowhere if that is outside. Every time zone puts its clocks, and begins its
    hours and days, at the beginning of a quarter, since 2012 at least.
    """
    edges = [*into.starts, into.end]
    return [
        (start, sum(quarters.get(number, 0) for number in quarters_between(start, end)))
        for start, end in pairwise(edges)
    ]


def _hours(start: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The beginning of the hour that `start` is in, and of all that follow."""
    edge = _hour_began(start.astimezone(UTC).replace(microsecond=0), zone)
    while True:
        yield edge
        edge = _next_hour(edge, zone)


def _hour_began(at: datetime, zone: tzinfo) -> datetime:
    full_hour = at - _since_full_hour(at, zone)
    return _change(full_hour, at, _minutes_ahead(zone)) or full_hour


def _next_hour(edge: datetime, zone: tzinfo) -> datetime:
    full_hour = edge + _HOUR - _since_full_hour(edge, zone)
    return _change(edge, full_hour, _minutes_ahead(zone)) or full_hour


def _since_full_hour(at: datetime, zone: tzinfo) -> timedelta:
    wall = at.astimezone(zone)
    return timedelta(minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)


def _days(start: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The beginning of the day that `start` is in, and of all that follow."""
    day = start.astimezone(zone).date()
    last = _day_begins(day, zone)
    yield last
    while True:
        day += _DAY
        edge = _day_begins(day, zone)
        if edge > last:  # else nobody lived that date: the clocks went over it
            yield edge
            last = edge


def _day_begins(day: date, zone: tzinfo) -> datetime:
    """The first time that the clocks show this date, or a later one."""
    midnight = datetime.combine(day, time(), zone)
    # Where no clock shows 00:00, the two readings of it lie on both sides of the change that skipped it.
    early, late = sorted(midnight.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    shown = early.astimezone(zone).replace(tzinfo=None) == midnight.replace(tzinfo=None)
    return early if shown else _change(early, late, _ahead(zone)) or late


Reading = Callable[[datetime], timedelta]


def _ahead(zone: tzinfo) -> Reading:
    """How far the clocks are ahead of UTC at a time."""
    return lambda at: at.astimezone(zone).utcoffset() or timedelta()


def _minutes_ahead(zone: tzinfo) -> Reading:
    """The same without full hours: where this stays, hours begin as before."""
    return lambda at: _ahead(zone)(at) % _HOUR


def _change(after: datetime, until: datetime, reading: Reading) -> datetime | None:
    """When what is read changed in (after, until]: two full seconds that are at most some hours apart."""
    before = reading(after)
    if reading(until) == before:
        return None
    low, high = after, until
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        low, high = (middle, high) if reading(middle) == before else (low, middle)
    return high
