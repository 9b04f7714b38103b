from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlshortener.errors import InvalidParameter
from urlshortener.stats.access import microseconds
from urlshortener.stats.series import MOST_BUCKETS, Buckets, Interval, buckets, fold, parse_zone


def quarter_of(at: datetime) -> int:
    return microseconds(at) // 900_000_000


def day(zone: str, date: str) -> tuple[Interval, datetime, datetime, ZoneInfo]:
    """The hours of one date, as arguments of `buckets`."""
    wall = ZoneInfo(zone)
    start = datetime.fromisoformat(date).replace(tzinfo=wall)
    return "hour", start, start + timedelta(days=1), wall  # a day later on the wall


def walls(found: Buckets, zone: str) -> list[str]:
    """What the clocks show when each begins."""
    return [start.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M") for start in found.starts]


def hours_long(found: Buckets) -> list[float]:
    edges = [*found.starts, found.end]
    return [(late - early) / timedelta(hours=1) for early, late in pairwise(edges)]


@pytest.mark.parametrize(
    ("zone", "date", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Pacific/Chatham", "2026-04-05", 25),
        ("Pacific/Chatham", "2026-09-27", 23),
        ("Asia/Kathmandu", "2026-06-01", 24),
    ],
)
def test_a_day_has_as_many_hours_as_it_was_long(zone: str, date: str, hours: int) -> None:
    of_the_day = buckets(*day(zone, date))
    assert hours_long(of_the_day) == [1] * hours
    _, start, end, wall = day(zone, date)
    assert hours_long(buckets("day", start, end, wall)) == [hours]


def test_the_hour_that_comes_twice_is_two_buckets() -> None:
    found = buckets(*day("Europe/Berlin", "2026-10-25"))
    assert walls(found, "Europe/Berlin")[1:5] == ["10-25 01:00", "10-25 02:00", "10-25 02:00", "10-25 03:00"]
    first, second = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert [count for _, count in fold({quarter_of(first): 2, quarter_of(second): 3}, found)][2:4] == [2, 3]


def test_the_hour_that_is_skipped_has_no_bucket() -> None:
    found = buckets(*day("America/New_York", "2026-03-08"))
    assert walls(found, "America/New_York")[:4] == ["03-08 00:00", "03-08 01:00", "03-08 03:00", "03-08 04:00"]


def test_lord_howe_puts_its_clocks_by_half_an_hour() -> None:
    back = buckets(*day("Australia/Lord_Howe", "2026-04-05"))
    assert walls(back, "Australia/Lord_Howe")[1:4] == ["04-05 01:00", "04-05 01:30", "04-05 02:00"]
    assert hours_long(back)[1:4] == [1, 0.5, 1]
    forward = buckets(*day("Australia/Lord_Howe", "2026-10-04"))
    assert walls(forward, "Australia/Lord_Howe")[1:4] == ["10-04 01:00", "10-04 02:30", "10-04 03:00"]
    assert hours_long(forward)[1:4] == [1, 0.5, 1]


def test_kathmandu_begins_its_hours_at_the_quarter() -> None:
    kathmandu = ZoneInfo("Asia/Kathmandu")
    nine = datetime(2026, 6, 1, 9, tzinfo=UTC)  # 14:45 on the wall
    found = buckets("hour", nine, nine + timedelta(hours=1), kathmandu)
    assert walls(found, "Asia/Kathmandu") == ["06-01 14:00", "06-01 15:00"]
    before_three, at_three = nine + timedelta(minutes=14, seconds=59), nine + timedelta(minutes=15)
    assert [count for _, count in fold({quarter_of(before_three): 1, quarter_of(at_three): 10}, found)] == [1, 10]


@pytest.mark.parametrize(
    ("zone", "date"),
    [("America/Sao_Paulo", "2018-11-04"), ("Africa/Cairo", "2026-04-24"), ("Asia/Beirut", "2026-03-29")],
)
def test_a_day_without_midnight_begins_when_the_clocks_are_put(zone: str, date: str) -> None:
    noon = datetime.fromisoformat(f"{date}T12:00").replace(tzinfo=ZoneInfo(zone))
    found = buckets("day", noon, noon + timedelta(minutes=1), ZoneInfo(zone))
    assert walls(found, zone) == [f"{date[5:]} 01:00"]
    assert hours_long(found) == [23]


def test_a_day_whose_last_hour_comes_twice_is_one() -> None:
    noon = datetime(2026, 10, 29, 12, tzinfo=ZoneInfo("Africa/Cairo"))  # at 24:00 it is 23:00 again
    found = buckets("day", noon, noon + timedelta(days=1), ZoneInfo("Africa/Cairo"))
    assert hours_long(found) == [25, 24]


def test_a_day_whose_midnight_comes_twice_begins_at_the_first() -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=ZoneInfo("America/Havana"))  # at 01:00 it is 00:00 again
    found = buckets("day", noon - timedelta(days=1), noon, ZoneInfo("America/Havana"))
    assert hours_long(found) == [24, 25]


def test_a_date_that_nobody_lived_has_no_bucket() -> None:
    samoa = ZoneInfo("Pacific/Apia")
    found = buckets("day", datetime(2011, 12, 29, tzinfo=samoa), datetime(2012, 1, 1, tzinfo=samoa), samoa)
    assert hours_long(found) == [24, 24]


def test_times_between_two_seconds_are_as_good() -> None:
    lord_howe = ZoneInfo("Australia/Lord_Howe")
    change = datetime(2026, 4, 4, 15, tzinfo=UTC)
    found = buckets("hour", change + timedelta(microseconds=1), change + timedelta(microseconds=2), lord_howe)
    assert (found.start, found.end) == (change, change + timedelta(minutes=30))


def test_what_is_outside_is_not_counted() -> None:
    start = datetime(2026, 1, 1, 10, tzinfo=UTC)
    found = buckets("hour", start, start + timedelta(hours=2), UTC)
    first = quarter_of(start)
    assert fold({first - 1: 5, first: 1, first + 7: 2, first + 8: 7}, found) == [
        (start, 1),
        (start + timedelta(hours=1), 2),
    ]


def test_empty_buckets_are_there() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert fold({}, buckets("day", start, start + timedelta(days=3), UTC)) == [
        (start, 0),
        (start + timedelta(days=1), 0),
        (start + timedelta(days=2), 0),
    ]


def test_there_are_never_more_than_a_thousand() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert len(buckets("hour", start, start + timedelta(hours=MOST_BUCKETS), UTC).starts) == 1000
    with pytest.raises(InvalidParameter):
        buckets("hour", start, start + timedelta(hours=MOST_BUCKETS, seconds=1), UTC)
    with pytest.raises(InvalidParameter):
        buckets("day", datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 1, tzinfo=UTC), UTC)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        (datetime(9999, 12, 31, 23, tzinfo=UTC), datetime(9999, 12, 31, 23, 30, tzinfo=UTC)),
        (datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("interval", ["hour", "day"])
def test_times_that_make_no_series_are_refused(interval: Interval, start: datetime, end: datetime) -> None:
    with pytest.raises(InvalidParameter):
        buckets(interval, start, end, ZoneInfo("America/New_York"))


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Argentina/Buenos_Aires"])
def test_a_zone_has_its_iana_name(name: str) -> None:
    assert parse_zone(name).key == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Nowhere/Land",
        "europe/berlin",
        "Europe",
        "../../etc/passwd",
        "/etc/localtime",
        "localtime",
        "Europe/Berlin\0",
        "posix/Europe/Berlin",
        "Europe/../Europe/Berlin",
        "zone.tab",
        "+02:00",
        "x" * 100_000,
    ],
)
def test_other_texts_are_no_zones(name: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        parse_zone(name)
    assert refusal.value.field == "timezone"
    assert len(refusal.value.detail) < 200


ZONES = sorted(available_timezones() - {"localtime", "Factory"})
AWKWARD_ZONES = ["Australia/Lord_Howe", "Pacific/Chatham", "Africa/Cairo", "America/Havana", "Africa/Casablanca"]
SECONDS = st.integers(
    int(datetime(2012, 1, 2, tzinfo=UTC).timestamp()), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())
)


def wall_key(interval: Interval, at: datetime, zone: ZoneInfo) -> tuple[object, ...]:
    """The plain idea of a bucket: one date on the wall, or one hour by a clock that minds only the zone's minutes."""
    if interval == "day":
        return (at.astimezone(zone).date(),)
    minutes = int((at.astimezone(zone).utcoffset() or timedelta()).total_seconds()) % 3600
    return (minutes, (int(at.timestamp()) + minutes) // 3600)


@settings(max_examples=300, deadline=None)
@given(
    interval=st.sampled_from(["hour", "day"]),
    zone=st.sampled_from(AWKWARD_ZONES) | st.sampled_from(ZONES),
    start=SECONDS,
    length=st.integers(1, 14 * 86_400),
    data=st.data(),
)
def test_every_access_is_in_the_bucket_that_its_wall_shows(
    interval: str, zone: str, start: int, length: int, data: st.DataObject
) -> None:
    of, wall = cast(Interval, interval), ZoneInfo(zone)
    first, last = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(start + length, UTC)
    found = buckets(of, first, last, wall)
    around = st.integers(start - 2 * 86_400, start + length + 2 * 86_400)
    accesses = [datetime.fromtimestamp(at, UTC) for at in data.draw(st.lists(around, max_size=60))]
    inside = [at for at in accesses if found.start <= at < found.end]

    counts = fold(Counter(quarter_of(at) for at in accesses), found)

    assert found.start <= first < last <= found.end
    assert sum(count for _, count in counts) == len(inside)
    assert {wall_key(of, at, wall): count for at, count in counts if count} == Counter(
        wall_key(of, at, wall) for at in inside
    )
