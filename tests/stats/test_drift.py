"""What every store of counts says is missing."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.redis import Redis
from tests.stats.test_stats_store import DAY, NOON, event, stats  # noqa: F401 (the fixture)
from urlshortener.events.event import AccessEvent, Progress
from urlshortener.stats.progress import Advance, Course
from urlshortener.stats.redis import RedisStats
from urlshortener.stats.redis_connection import RedisConnection, RedisServer
from urlshortener.stats.sqlite_once import courses_of
from urlshortener.stats.store import Drift, StatsStore

AT_ONCE = timedelta(0)
HOUR = timedelta(hours=1)


async def deliver(
    stats: StatsStore,  # noqa: F811
    numbers: Sequence[int],
    highest: int | None = None,
    *,
    is_last: bool = False,
    epoch: str = "epoch",
    hour: int = 0,
) -> None:
    """A message with these events, as a publisher sends it that had numbered so many."""
    batch: list[AccessEvent] = [event(seq, epoch=epoch, at=NOON + hour * HOUR) for seq in numbers]
    told = Progress(epoch, "pod-1", max(numbers) if highest is None else highest, is_last)
    await stats.record(batch, [told])


async def missing(stats: StatsStore, older_than: timedelta = AT_ONCE) -> list[tuple[str, int, int]]:  # noqa: F811
    """Epoch, hour after NOON, and how many."""
    found: Sequence[Drift] = await stats.drift(older_than)
    assert all(drift.host == "pod-1" for drift in found)
    return sorted((drift.epoch, (drift.hour - NOON) // HOUR, drift.missing) for drift in found)


async def test_nothing_is_missing_of_what_came(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(100))
    await deliver(stats, range(50, 200))
    assert await missing(stats) == []


async def test_a_message_that_never_came_is_missed(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(10))
    await deliver(stats, range(20, 30))
    assert await missing(stats) == [("epoch", 0, 10)]
    await deliver(stats, range(10, 20))
    assert await missing(stats) == []


async def test_what_is_under_way_is_missed_only_after_a_minute(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(10), highest=99)
    assert await missing(stats, timedelta(seconds=60)) == []
    assert await missing(stats) == [("epoch", 0, 90)]


async def test_what_is_missing_is_named_by_the_hour_of_its_neighbours(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(10), hour=0)
    await deliver(stats, range(15, 20), hour=1)
    await deliver(stats, range(30, 40), hour=3)
    await deliver(stats, [], highest=44, is_last=True)
    assert await missing(stats) == [("epoch", 1, 5), ("epoch", 3, 15)]


async def test_an_epoch_that_is_over_and_complete_is_forgotten(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(10), highest=19, epoch="one")
    await deliver(stats, [], highest=19, is_last=True, epoch="one")
    await deliver(stats, range(10), is_last=True, epoch="two")
    await deliver(stats, range(10), epoch="goes on")
    await stats.tidy(NOON + DAY)
    assert await epochs(stats) == {"one", "goes on"}
    assert await missing(stats) == [("one", 0, 10)]
    await deliver(stats, range(10, 20), highest=19, epoch="one")
    await stats.tidy(NOON + DAY)
    assert await epochs(stats) == {"goes on"}
    await deliver(stats, [], highest=9, is_last=True, epoch="goes on")
    await stats.tidy(NOON + DAY)
    assert (await epochs(stats), await missing(stats)) == (set(), [])


async def test_a_redelivery_to_a_forgotten_epoch_looks_like_no_loss(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(10), is_last=True)
    await stats.tidy(NOON + DAY)
    await deliver(stats, range(5), highest=7)
    assert await missing(stats) == []


async def test_hours_that_are_complete_are_put_away_and_their_numbers_not_counted_again(
    stats: StatsStore,  # noqa: F811
) -> None:
    for hour in range(20):
        await deliver(stats, range(10 * hour, 10 * hour + 10), hour=hour)
        await stats.tidy(NOON + DAY)
    (course,) = (await courses(stats)).values()
    assert (course.done_below, course.hours) == (200, (((course.hours[0][0]), 199),))
    await deliver(stats, range(205, 210), hour=20)
    assert await missing(stats) == [("epoch", 20, 5)]


async def test_holes_are_found_in_blocks_of_any_size_full_ones_too(stats: StatsStore) -> None:  # noqa: F811
    lost = {0, 4095, 4096, 65_535, 65_536, 70_000, 139_999}
    numbers = [number for number in range(140_000) if number not in lost]
    for first in range(0, len(numbers), 10_000):
        await deliver(stats, numbers[first : first + 10_000], 139_999)
    assert await missing(stats) == [("epoch", 0, len(lost))]
    await deliver(stats, sorted(lost - {70_000}))
    assert await missing(stats) == [("epoch", 0, 1)]


async def test_a_publisher_that_tells_nothing_misses_nothing(stats: StatsStore) -> None:  # noqa: F811
    await stats.record([event(7), event(99, epoch="two"), event("foreign")])
    assert await missing(stats) == []


async def test_a_number_beyond_all_reason_costs_no_more(stats: StatsStore) -> None:  # noqa: F811
    await deliver(stats, range(10), highest=2**48 - 1)
    assert await missing(stats) == [("epoch", 0, 2**48 - 10)]


async def test_what_it_knows_is_known_after_a_kill(stats: StatsStore) -> None:  # noqa: F811
    """It is in the store, in the same step as the counts: another process sees it at once."""
    await deliver(stats, range(10), highest=19)
    if isinstance(stats, RedisStats):
        other = RedisStats(type(stats._connection)(stats._connection.place), retention=DAY)
        assert await missing(other) == [("epoch", 0, 10)]
        await other.close()
    else:
        pytest.skip("a file belongs to one process: tests/stats/test_sqlite_stats.py kills it")


EXAMPLE = count()
advance_strategy = st.builds(
    Advance,
    st.just(""),
    st.sampled_from(["pod-1", "pod-2"]),
    st.integers(-1, 300),
    st.integers(0, 1),
    st.integers(-1, 3),
    st.integers(-1, 300),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    told=st.lists(st.lists(st.integers(0, 60), max_size=10), max_size=8),
    hours=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    shuffle=st.randoms(use_true_random=False),
)
async def test_what_is_missing_is_the_rest_of_a_set(
    stats: StatsStore,  # noqa: F811
    told: list[list[int]],
    hours: list[int],
    shuffle: Random,
) -> None:
    """Whatever came in which order, and whenever it was tidied."""
    epoch = f"e{next(EXAMPLE)}"
    came: set[int] = set()
    highest = -1
    for numbers, hour in zip(told, hours, strict=False):
        highest = max([highest, *numbers])
        came.update(numbers)
        await deliver(stats, numbers, highest, epoch=epoch, hour=hour)
        if shuffle.random() < 0.3:
            await stats.tidy(NOON + DAY)
        lost = [how_many for name, _, how_many in await missing(stats) if name == epoch]
        assert sum(lost) == highest + 1 - len(came)


@given(st.lists(st.tuples(advance_strategy, st.integers(0, 200)), max_size=12))
def test_a_course_is_packed_and_read_again(steps: list[tuple[Advance, int]]) -> None:
    course, now = Course("pod-1"), 1_000
    for advance, later in steps:
        now += later
        course = course.after(advance, now)
        assert Course.unpacked(course.packed()) == course
        assert course.known_at(now) == course.highest
        assert course.known_at(now - 60) <= course.known_at(now)


def test_a_busy_epoch_is_known_a_minute_back() -> None:
    course = Course("pod-1")
    for second in range(1_000, 1_500):
        course = course.after(Advance("e", "pod-1", second, 0, 0, second), second)
        if second >= 1_120:
            assert second - 120 <= course.known_at(second - 60) <= second - 60


@pytest.mark.parametrize("marked_before", [30, 90])
@pytest.mark.parametrize("hour", [-1, 500_000, 500_001])
async def test_the_function_of_redis_brings_a_course_forward_as_we_do(
    redis_server: Redis, redis_database: int, marked_before: int, hour: int
) -> None:
    connection = RedisConnection(
        RedisServer(redis_server.host, redis_server.port, redis_server.password, database=redis_database)
    )
    store = RedisStats(connection, retention=DAY)

    async def now() -> int:
        return int((await connection.read(("TIME",)))[0][0])

    began = await now()
    course = Course("pod-1", 50, False, began - 10, 40, began - marked_before, 30, began - 200, 7, ((500_000, 50),))
    await connection.read(("HSET", "us:progress", "epoch", course.packed()))
    at = datetime.fromtimestamp(hour * 3600, UTC)
    batch = [] if hour < 0 else [event(60, at=at)]
    await store.record(batch, [Progress("epoch", "pod-2", 70, is_last=True)])
    advance = Advance("epoch", "pod-2", 70, 1, hour, 60 if batch else -1)
    assert (await courses(store))["epoch"] in [course.after(advance, second) for second in (began, await now())]
    await store.close()


async def epochs(stats: StatsStore) -> set[str]:  # noqa: F811
    return set(await courses(stats))


async def courses(stats: StatsStore) -> dict[str, Course]:  # noqa: F811
    if isinstance(stats, RedisStats):
        return (await stats._courses())[0]
    return await stats._ask(courses_of)  # type: ignore[attr-defined, no-any-return]
