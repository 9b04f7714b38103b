"""What every store of counts promises."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.redis import Redis
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.access import RequestMemory, microseconds
from urlshortener.stats.redis import RedisStats
from urlshortener.stats.redis_connection import RedisConnection, RedisServer
from urlshortener.stats.sqlite import SqliteStats
from urlshortener.stats.store import LinkStats, StatsStore

RETENTION = timedelta(days=400)

# Noon of yesterday: some hours around it are the same day, and no store takes it for too old.
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


@pytest.fixture(params=["sqlite", "redis"])
async def stats(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StatsStore]:
    store: StatsStore = _redis(request) if request.param == "redis" else _sqlite(tmp_path)
    yield store
    await store.close()


def _sqlite(folder: Path, requests: RequestMemory = RequestMemory()) -> SqliteStats:  # noqa: B008
    return SqliteStats(folder / "stats.db", retention=RETENTION, requests=requests)


def _redis(request: pytest.FixtureRequest, requests: RequestMemory = RequestMemory()) -> RedisStats:  # noqa: B008
    server: Redis = request.getfixturevalue("redis_server")
    database: int = request.getfixturevalue("redis_database")
    place = RedisServer(server.host, server.port, server.password, database=database)
    return RedisStats(RedisConnection(place), retention=RETENTION, requests=requests)


def event(
    seq: int | str,
    code: str = "cat",
    *,
    at: datetime = NOON,
    epoch: str = "epoch",
    user_agent: str | None = CHROME,
    visitor: str | None = None,
    request: str | None = None,
) -> AccessEvent:
    """An event with a number in an epoch, or with a foreign publisher's id."""
    event_id = seq if isinstance(seq, str) else EventId(epoch, seq)
    return AccessEvent(event_id, code, at, user_agent, visitor=visitor, request_id=request)


async def record(stats: StatsStore, *events: AccessEvent) -> tuple[int, int]:
    recorded = await stats.record(events)
    return recorded.counted, recorded.duplicates


async def counted(stats: StatsStore, code: str = "cat") -> int:
    of_link = await stats.of(code)
    return of_link.access_count if of_link else 0


async def visitors(stats: StatsStore, code: str = "cat") -> int:
    of_link = await stats.of(code)
    assert of_link
    return of_link.visitors


# ---- once each


async def test_an_access_is_counted(stats: StatsStore) -> None:
    assert await record(stats, event(0, at=NOON, visitor="ann")) == (1, 0)
    assert await stats.of("cat") == LinkStats("cat", access_count=1, bots=0, visitors=1, last_accessed_at=NOON)


async def test_a_code_that_nobody_followed_has_no_counts(stats: StatsStore) -> None:
    await record(stats, event(0, "cat"))
    assert await stats.of("dog") is None
    assert await stats.quarters("dog", NOON - DAY, NOON + DAY) == {}


async def test_twice_delivered_is_once_counted(stats: StatsStore) -> None:
    assert await record(stats, event(7), event(8)) == (2, 0)
    assert await record(stats, event(8), event(9)) == (1, 1)
    assert await record(stats, event(7), event(8), event(9)) == (0, 3)
    assert await counted(stats) == 3


async def test_twice_in_one_batch_is_once_counted(stats: StatsStore) -> None:
    assert await record(stats, event(1), event(1), event("x"), event(1), event("x")) == (2, 3)
    assert await counted(stats) == 2


async def test_numbers_may_come_in_any_order(stats: StatsStore) -> None:
    numbers = [4096, 3, 70_000, 0, 65_536, 8_191, 65_535, 1, 4095, 1_000_000_000_000]
    for number in numbers:
        assert await record(stats, event(number)) == (1, 0)
    for number in sorted(numbers):
        assert await record(stats, event(number)) == (0, 1)
    assert await record(stats, event(2), event(69_999)) == (2, 0)
    assert await counted(stats) == len(numbers) + 2


async def test_blocks_of_numbers_that_are_full_stay_counted(stats: StatsStore) -> None:
    most = 70_000  # more than one block of any store
    for first in range(0, most, 5_000):
        assert await record(stats, *(event(seq) for seq in range(first, first + 5_000))) == (5_000, 0)
    for first in (0, 4_090, 60_000, most - 100):
        assert await record(stats, *(event(seq) for seq in range(first, first + 100))) == (0, 100)
    assert await record(stats, event(most)) == (1, 0)
    assert await counted(stats) == most + 1


async def test_the_same_number_of_another_epoch_is_another_event(stats: StatsStore) -> None:
    both = [event(seq, epoch=epoch) for seq in range(10) for epoch in ("one", "two")]
    assert await record(stats, *both) == (20, 0)
    assert await record(stats, *reversed(both)) == (0, 20)
    assert await counted(stats) == 20


async def test_foreign_ids_are_counted_once_each(stats: StatsStore) -> None:
    assert await record(stats, event("a"), event("b")) == (2, 0)
    assert await record(stats, event("b"), event("c")) == (1, 1)
    assert await counted(stats) == 3


async def test_foreign_ids_and_numbers_do_not_meet(stats: StatsStore) -> None:
    mixed = [event(0), event("0"), event("epoch"), event("epoch:0"), event(1, epoch="0")]
    assert await record(stats, *mixed) == (5, 0)
    assert await record(stats, *mixed) == (0, 5)


async def test_an_empty_batch_counts_nothing(stats: StatsStore) -> None:
    assert await record(stats) == (0, 0)
    assert (await stats.top(10, 0)).total == 0


async def test_a_batch_that_fails_leaves_nothing(stats: StatsStore) -> None:
    broken = event(2, at=NOON.replace(tzinfo=None))  # no time that anything can be compared with
    with pytest.raises(TypeError):
        await record(stats, event(0, "new"), event("foreign", "new"), broken)
    assert await stats.of("new") is None
    assert (await stats.top(10, 0)).total == 0
    assert await record(stats, event(0, "new"), event("foreign", "new")) == (2, 0)


# ---- a click that a proxy tried at two shorteners


async def test_a_second_try_of_a_proxy_is_not_counted(stats: StatsStore) -> None:
    assert await record(stats, event(0, epoch="dying", request="r1", visitor="ann")) == (1, 0)
    retry = event(0, epoch="living", request="r1", at=NOON + SECOND, visitor="bob")
    recorded = await stats.record([retry, event(1, epoch="living", request="r2")])
    assert (recorded.counted, recorded.duplicates, recorded.retries) == (1, 0, 1)
    assert (await counted(stats), await visitors(stats)) == (2, 1)


async def test_a_redelivery_of_a_try_or_a_retry_is_a_duplicate(stats: StatsStore) -> None:
    both = [event(0, epoch="dying", request="r1"), event(0, epoch="living", request="r1")]
    assert (await stats.record(both)).retries == 1
    for again in (both, both[:1], both[1:], both[::-1]):
        assert await record(stats, *again) == (0, len(again))
    assert await counted(stats) == 1


async def test_a_try_may_come_long_after_its_retry(stats: StatsStore) -> None:
    """Out of the spool of a process that died: the times of the events are near, whenever they come."""
    await stats.record([event(0, epoch="living", request="r1")])
    await stats.record([event(seq, at=NOON + timedelta(minutes=5), request=f"other {seq}") for seq in range(10)])
    assert (await stats.record([event(0, epoch="dying", at=NOON - 3 * SECOND, request="r1")])).retries == 1


async def test_one_request_suppresses_no_click_on_another_code(stats: StatsStore) -> None:
    await record(stats, event(0, "cat", request="r1"), event(1, "dog", request="r1"))
    assert (await counted(stats, "cat"), await counted(stats, "dog")) == (1, 1)


async def test_a_foreign_event_may_have_a_request_too(stats: StatsStore) -> None:
    recorded = await stats.record([event("a", request="r1"), event("b", request="r1"), event(0, request="r1")])
    assert (recorded.counted, recorded.retries) == (1, 2)


@pytest.mark.parametrize("seconds", range(0, 300, 25))
async def test_a_retry_is_known_wherever_between_the_two_a_minute_ends(stats: StatsStore, seconds: int) -> None:
    at = NOON + seconds * SECOND
    for late in (1, 29):
        one, two = f"{late}-{seconds}", f"{late}+{seconds}"
        await stats.record([event(0, epoch=one, at=at, request=one), event(1, epoch=one, at=at, request=two)])
        late_and_early = [
            event(2, epoch=one, at=at + late * SECOND, request=one),
            event(3, epoch=one, at=at - late * SECOND, request=two),
        ]
        assert (await stats.record(late_and_early)).retries == 2


async def test_when_there_is_no_room_for_a_request_its_event_is_counted_all_the_same(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    small = RequestMemory(most=3)
    for stats in (_sqlite(tmp_path, small), _redis(request, small)):
        recorded = await stats.record([event(seq, request=f"r{seq}") for seq in range(3)])
        assert (recorded.counted, recorded.unremembered) == (3, 0)
        recorded = await stats.record([event(3, request="r3"), event(4, request="r1")])
        assert (recorded.counted, recorded.retries, recorded.unremembered) == (1, 1, 1)
        await stats.close()


async def test_without_a_window_no_request_is_remembered(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    never = RequestMemory(window=timedelta(0))
    for stats in (_sqlite(tmp_path, never), _redis(request, never)):
        assert await record(stats, event(0, request="r"), event(1, request="r")) == (2, 0)
        await stats.close()


async def test_after_the_window_a_request_is_forgotten(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    short = RequestMemory(window=timedelta(seconds=1))
    for stats in (_sqlite(tmp_path, short), _redis(request, short)):
        await stats.record([event(0, request="r")])
        assert (await stats.record([event(1, request="r")])).retries == 1
        await asyncio.sleep(1.1)
        assert await record(stats, event(2, request="r")) == (1, 0)
        await stats.close()


EXAMPLE = count()  # so that no two examples share an epoch or a code


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    deliveries=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["one", "two", "foreign"]),
                st.integers(0, 12) | st.sampled_from([4095, 4096, 65_535, 65_536]),
                st.none() | st.integers(0, 3),
            ),
            max_size=25,
        ),
        max_size=8,
    ),
    shuffle=st.randoms(use_true_random=False),
)
async def test_counts_are_those_of_a_set(
    stats: StatsStore, deliveries: list[list[tuple[str, int, int | None]]], shuffle: Random
) -> None:
    """Whatever the order, the split, the repetition, the mixture of epochs and the retries of proxies."""
    example = f"e{next(EXAMPLE)}-"
    requests: dict[tuple[str, int], int | None] = {}  # an event has the request it was first made with
    for epoch, seq, request in (one for delivery in deliveries for one in delivery):
        requests.setdefault((epoch, seq), request)
    again = [one for delivery in deliveries for one in delivery]
    shuffle.shuffle(again)
    known: set[tuple[str, int]] = set()
    for delivery in [*deliveries, again]:
        identities = [(epoch, seq) for epoch, seq, _ in delivery]
        clicks_before = _clicks(known, requests)
        fresh = set(identities) - known
        known |= fresh
        clicks = _clicks(known, requests)
        recorded = await stats.record([_made(example, *one, requests[one]) for one in identities])
        assert recorded.counted == len(clicks) - len(clicks_before)
        assert recorded.duplicates == len(identities) - len(fresh)
        assert recorded.retries == len(fresh) - recorded.counted
    by_code = Counter(code for code, _ in _clicks(known, requests))
    for code, expected in by_code.items():
        assert await counted(stats, f"{example}{code}") == expected


def _clicks(known: set[tuple[str, int]], requests: dict[tuple[str, int], int | None]) -> set[tuple[int, object]]:
    """What the known events come to: an access for each pair of code and request, and for each event without one."""
    return {(seq % 3, one if (request := requests[one]) is None else request) for one in known for seq in one[1:]}


def _made(example: str, epoch: str, seq: int, request: int | None) -> AccessEvent:
    code = f"{example}{seq % 3}"
    told = None if request is None else f"{example}{request}"
    if epoch == "foreign":
        return event(f"{example}{seq}", code, request=told)
    return event(seq, code, epoch=example + epoch, request=told)


# ---- what is counted


async def test_the_last_access_is_the_latest_and_not_the_last_to_come(stats: StatsStore) -> None:
    latest = NOON + timedelta(microseconds=123_456)
    await record(stats, event(0, at=latest), event(1, at=NOON))
    await record(stats, event(2, at=NOON - 3 * SECOND))
    of_link = await stats.of("cat")
    assert of_link and of_link.last_accessed_at == latest


async def test_bots_are_counted_and_told_apart(stats: StatsStore) -> None:
    bots = ["Googlebot/2.1 (+http://www.google.com/bot.html)", "curl/7.88.1"]
    agents = [*bots, CHROME, None]
    assert await record(stats, *(event(seq, user_agent=agent) for seq, agent in enumerate(agents))) == (4, 0)
    of_link = await stats.of("cat")
    assert of_link and (of_link.access_count, of_link.bots) == (4, 2)


async def test_codes_that_differ_only_in_case_are_two(stats: StatsStore) -> None:
    await record(stats, event(0, "cat"), event(1, "Cat"), event(2, "Cat"))
    assert (await counted(stats, "cat"), await counted(stats, "Cat")) == (1, 2)


async def test_a_visitor_is_one_for_all_the_day(stats: StatsStore) -> None:
    await record(stats, event(0, visitor="ann"), event(1, visitor="ann"), event(2, visitor="bob"), event(3))
    await record(stats, event(4, visitor="ann", at=NOON + timedelta(hours=11)))
    assert await visitors(stats) == 2


async def test_a_visitor_counts_again_on_another_day(stats: StatsStore) -> None:
    await record(stats, event(0, visitor="ann"), event(1, visitor="ann", at=NOON - DAY))
    assert await visitors(stats) == 2


async def test_a_visitor_of_two_links_counts_for_both(stats: StatsStore) -> None:
    await record(stats, event(0, "cat", visitor="ann"), event(1, "dog", visitor="ann"))
    assert (await visitors(stats, "cat"), await visitors(stats, "dog")) == (1, 1)


async def test_visitors_are_right_to_two_percent(stats: StatsStore) -> None:
    many, few = 20_000, 2_000
    days = [*((number, NOON) for number in range(many))]
    days += [(number, NOON - DAY * back) for number in range(few) for back in (1, 2)]
    for first in range(0, len(days), 2_000):
        batch = [
            event(first + seq, at=at, visitor=f"visitor {number}")
            for seq, (number, at) in enumerate(days[first : first + 2_000])
        ]
        await stats.record(batch)
    assert await visitors(stats) == pytest.approx(many + 2 * few, rel=0.02)


async def test_a_closed_day_keeps_its_visitors(stats: StatsStore) -> None:
    await record(stats, *(event(seq, visitor=f"visitor {seq % 5}") for seq in range(10)))
    await stats.tidy(NOON + 10 * DAY)
    assert await visitors(stats) == 5
    await stats.tidy(NOON + 11 * DAY)
    assert await visitors(stats) == 5


async def test_who_comes_after_the_day_was_closed_is_counted_and_no_visitor(
    stats: StatsStore, request: pytest.FixtureRequest
) -> None:
    if isinstance(stats, RedisStats):
        reason = "Redis closes a code's days with its next access, by Redis' clock: tests/stats/test_redis_stats.py"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    await record(stats, event(0, visitor="ann"))
    await stats.tidy(NOON + 10 * DAY)
    assert await record(stats, event(1, visitor="ann"), event(2, visitor="bob")) == (2, 0)
    assert (await counted(stats), await visitors(stats)) == (3, 1)


async def test_a_day_stays_open_for_a_week(stats: StatsStore) -> None:
    await record(stats, event(0, visitor="ann"))
    await stats.tidy(NOON + 7 * DAY)
    await record(stats, event(1, visitor="ann"), event(2, visitor="bob"))
    assert await visitors(stats) == 2


# ---- when


def quarter(at: datetime) -> int:
    return microseconds(at) // 900_000_000


async def test_quarters_tell_when(stats: StatsStore) -> None:
    last_of_it = NOON + timedelta(minutes=14, seconds=59, microseconds=999_999)
    times = [NOON, last_of_it, NOON + timedelta(minutes=15), NOON + timedelta(hours=5), NOON - 3 * DAY]
    await record(stats, *(event(seq, at=at) for seq, at in enumerate(times)), event(9, "dog"))
    await record(stats, event(10, at=NOON))
    first = quarter(NOON)
    assert await stats.quarters("cat", NOON - 4 * DAY, NOON + DAY) == {
        first - 3 * 96: 1,
        first: 3,
        first + 1: 1,
        first + 20: 1,
    }


async def test_quarters_are_those_from_the_start_until_before_the_end(stats: StatsStore) -> None:
    minutes = [-15, 0, 15, 30]
    await record(stats, *(event(seq, at=NOON + timedelta(minutes=late)) for seq, late in enumerate(minutes)))
    found = await stats.quarters("cat", NOON, NOON + timedelta(minutes=30))
    assert found == {quarter(NOON): 1, quarter(NOON) + 1: 1}
    assert await stats.quarters("cat", NOON, NOON) == {}
    assert await stats.quarters("cat", NOON + DAY, NOON) == {}


async def test_any_stretch_of_time_may_be_asked_for(stats: StatsStore) -> None:
    await record(stats, event(0))
    everything = await stats.quarters("cat", datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
    assert everything == {quarter(NOON): 1}


async def test_quarters_of_many_months_are_found(stats: StatsStore) -> None:
    times = [NOON - 9 * DAY * back for back in range(40)]
    await record(stats, *(event(seq, at=at) for seq, at in enumerate(times)))
    assert await stats.quarters("cat", times[-1], NOON + DAY) == {quarter(at): 1 for at in times}


# ---- most followed


async def follow(stats: StatsStore, **times: int) -> None:
    codes = [code for code, often in times.items() for _ in range(often)]
    await record(stats, *(event(seq, code) for seq, code in enumerate(codes)))


async def codes_of(stats: StatsStore, limit: int, offset: int = 0) -> Sequence[tuple[str, int]]:
    return [(of_link.code, of_link.access_count) for of_link in (await stats.top(limit, offset)).items]


async def test_the_most_followed_come_first_and_equal_ones_by_code(stats: StatsStore) -> None:
    await follow(stats, cat=3, dog=5, ant=3, Bee=3, eel=1)
    assert await codes_of(stats, 10) == [("dog", 5), ("Bee", 3), ("ant", 3), ("cat", 3), ("eel", 1)]


async def test_pages_follow_each_other(stats: StatsStore) -> None:
    await follow(stats, cat=3, dog=5, ant=3, bee=3, eel=1)
    pages = [await codes_of(stats, 2, offset) for offset in (0, 2, 4, 6)]
    assert pages == [[("dog", 5), ("ant", 3)], [("bee", 3), ("cat", 3)], [("eel", 1)], []]


async def test_a_page_knows_how_many_codes_there_are(stats: StatsStore) -> None:
    await follow(stats, cat=1, dog=2, ant=2)
    await record(stats, event(100, "cat"), event(101, "new"), event(102, "new"))
    for limit, offset in ((1, 0), (10, 0), (1, 50)):
        assert (await stats.top(limit, offset)).total == 4


async def test_a_page_shows_the_same_as_the_link_alone(stats: StatsStore) -> None:
    await record(stats, event(0, visitor="ann"), event(1, user_agent="curl/7.88.1"), event(2, "dog", at=NOON - DAY))
    shown = (await stats.top(10, 0)).items
    assert list(shown) == [await stats.of("cat"), await stats.of("dog")]


async def test_who_overtakes_moves_up(stats: StatsStore) -> None:
    await follow(stats, cat=3, dog=2)
    await record(stats, event(100, "dog"), event(101, "dog"))
    assert await codes_of(stats, 10) == [("dog", 4), ("cat", 3)]


async def test_it_answers(stats: StatsStore) -> None:
    await stats.ping()  # raises if not
    await stats.tidy(NOON)
    await stats.ping()
