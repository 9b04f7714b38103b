"""From the channel into the counts: what is counted, when it is acknowledged, and what a store may do wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from urlshortener.errors import StoreUnavailable
from urlshortener.events.channel import EventSource
from urlshortener.events.event import AccessEvent, EventId, NotAnEvent, Progress, decode, encode
from urlshortener.services import counting
from urlshortener.services.counting import Counting
from urlshortener.stats.sqlite import SqliteStats
from urlshortener.stats.store import Drift, Recorded, StatsStore
from urlshortener.telemetry import COUNTS_MISSING

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def accesses(*numbers: int, code: str = "cat") -> list[AccessEvent]:
    return [AccessEvent(EventId("epoch", number), code, NOW - timedelta(seconds=1)) for number in numbers]


@dataclass(eq=False)
class Told:
    """A delivery that remembers what was said of it."""

    events: Sequence[AccessEvent]
    progress: Progress | None = None
    is_acknowledged: bool = False
    arrival: None = None

    def acknowledge(self) -> None:
        assert not self.is_acknowledged, "acknowledged twice"
        self.is_acknowledged = True

    def give_back(self) -> None:
        raise AssertionError("nobody gives back one by one")


class ScriptedSource:
    """Delivers what a test puts in; all that is not acknowledged comes again, in its order, to whoever asks next."""

    is_connected = True

    def __init__(self) -> None:
        self.deliveries_made: list[Told] = []
        self.times_given_back = 0
        self.is_open = False
        self._put = asyncio.Event()

    def put(self, *events: AccessEvent) -> Told:
        told = Told(events)
        self.deliveries_made.append(told)
        self._put.set()
        return told

    @contextlib.asynccontextmanager
    async def deliveries(self) -> AsyncIterator[AsyncIterator[Told]]:
        assert not self.is_open
        self.is_open = True
        try:
            yield self._each()
        finally:
            self.is_open = False
            self.times_given_back += 1

    async def _each(self) -> AsyncIterator[Told]:
        delivered = 0
        waiting = [told for told in self.deliveries_made if not told.is_acknowledged]
        already = len(self.deliveries_made)
        while True:
            for told in waiting[delivered:]:
                delivered += 1
                yield told
            self._put.clear()
            waiting += self.deliveries_made[already:]
            already = len(self.deliveries_made)
            if delivered == len(waiting):
                await self._put.wait()

    async def close(self) -> None: ...


@dataclass
class ScriptedStats:
    """A store with a grace: a test says what becomes of each call."""

    grace_seconds: float = 3.0
    generation: int = 1
    is_away: bool = False  # nothing answers
    takes_nothing: bool = False  # it answers, but no batch is recorded
    replicates: bool = True
    counted: set[object] = field(default_factory=set)
    calls: list[int] = field(default_factory=list)  # how many events each brought
    pings: int = 0
    told: list[Progress] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    held: asyncio.Event | None = None  # calls wait for it
    ends_cancelled_calls_with: Exception | None = None

    async def record(self, batch: Sequence[AccessEvent], progress: Sequence[Progress] = ()) -> Recorded:
        self.told += progress
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.calls.append(len(batch))
        try:
            if self.held is not None:
                await self.held.wait()
        except asyncio.CancelledError:
            raise self.ends_cancelled_calls_with or asyncio.CancelledError from None
        finally:
            self.under_way -= 1
        if self.is_away or self.takes_nothing:
            raise StoreUnavailable("away")
        new = {event.id for event in batch} - self.counted
        self.counted |= new
        return Recorded(len(new), len(batch) - len(new), replicated=self.replicates, generation=self.generation)

    async def ping(self) -> None:
        self.pings += 1
        if self.is_away:
            raise StoreUnavailable("away")

    async def tidy(self, now: datetime) -> None: ...

    async def drift(self) -> Sequence[Drift]:
        if self.is_away:
            raise StoreUnavailable("away")
        return self.drifts


class MonotonicClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def stats() -> ScriptedStats:
    return ScriptedStats()


@pytest.fixture
def clock() -> MonotonicClock:
    return MonotonicClock()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every quarter of a second in earnest is looked at every turn here."""
    monkeypatch.setattr(counting, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(counting, "_FIRST_PAUSE_SECONDS", 0.001)


@contextlib.asynccontextmanager
async def running(source: ScriptedSource, stats: object, clock: Callable[[], float]) -> AsyncIterator[Counting]:
    counts = Counting(cast(EventSource, source), cast(StatsStore, stats), lambda: NOW, clock)
    task = asyncio.create_task(counts.run())
    try:
        yield counts
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert not source.is_open


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def turns(number: int = 200) -> None:
    """Time for what must not happen to happen."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_a_durable_store_has_counted_is_acknowledged(
    source: ScriptedSource, clock: MonotonicClock, tmp_path: Path
) -> None:
    store = SqliteStats(tmp_path / "stats.db", retention=timedelta(days=1), clock=lambda: NOW)
    async with contextlib.aclosing(cast(Any, Closing(store))), running(source, store, clock):
        first, twice = source.put(*accesses(1, 2)), source.put(*accesses(2, 3), *accesses(4, code="dog"))
        await until(lambda: first.is_acknowledged and twice.is_acknowledged)
        cat, dog = await store.of("cat"), await store.of("dog")
        assert (cat and cat.access_count, dog and dog.access_count) == (3, 1)


@dataclass
class Closing:
    store: SqliteStats

    async def aclose(self) -> None:
        await self.store.close()


async def test_what_may_be_undone_is_acknowledged_only_after_the_grace(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    async with running(source, stats, clock):
        told = source.put(*accesses(1))
        await until(lambda: stats.calls == [1])
        clock.seconds += 2.9
        await turns()
        assert not told.is_acknowledged
        clock.seconds += 0.2
        await until(lambda: told.is_acknowledged)
        assert stats.calls == [1]


async def test_what_was_not_replicated_is_counted_again_until_it_is(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    stats.replicates = False
    async with running(source, stats, clock):
        told = source.put(*accesses(1))
        await until(lambda: stats.calls == [1])
        clock.seconds += 4
        await until(lambda: stats.calls == [1, 1])
        stats.replicates = True
        clock.seconds += 4
        await until(lambda: stats.calls == [1, 1, 1])
        await turns()
        assert not told.is_acknowledged  # replicated just now: the grace begins
        clock.seconds += 4
        await until(lambda: told.is_acknowledged)


async def test_another_process_of_the_store_is_told_again_at_once_what_the_one_before_may_have_forgotten(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    async with running(source, stats, clock):
        told = source.put(*accesses(1, 2))
        await until(lambda: stats.calls == [2])
        stats.generation, stats.counted = 2, set()  # failed over, and behind
        await until(lambda: stats.counted == {EventId("epoch", 1), EventId("epoch", 2)})
        await turns()
        assert not told.is_acknowledged
        clock.seconds += 4
        await until(lambda: told.is_acknowledged)
        assert stats.calls == [2, 2]


async def test_one_batch_that_is_not_replicated_holds_up_no_other(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    async with running(source, stats, clock):
        safe = source.put(*accesses(1))
        await until(lambda: stats.calls == [1])
        stats.replicates = False
        source.put(*accesses(2))
        await until(lambda: stats.calls == [1, 1])
        clock.seconds += 4
        await until(lambda: safe.is_acknowledged)


async def test_each_batch_has_a_grace_of_its_own(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    async with running(source, stats, clock):
        old = source.put(*accesses(1))
        await until(lambda: stats.calls == [1])
        clock.seconds += 2
        young = source.put(*accesses(2))
        await until(lambda: stats.calls == [1, 1])
        clock.seconds += 2
        await until(lambda: old.is_acknowledged)
        await turns()
        assert not young.is_acknowledged
        clock.seconds += 2
        await until(lambda: young.is_acknowledged)


async def test_what_came_bit_by_bit_is_counted_again_at_once(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    async with running(source, stats, clock):
        for number in range(20):
            source.put(*accesses(number))
            await until(lambda: len(stats.counted) == number + 1)  # noqa: B023 (it is over before the next)
        stats.generation = 2
        clock.seconds += 4
        await until(lambda: stats.calls[20:] == [20])


async def test_a_store_that_is_away_costs_one_redelivery_and_then_all_is_counted(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_LONGEST_PING_PAUSE_SECONDS", 0.001)
    stats.grace_seconds = 0
    async with running(source, stats, clock) as counts:
        await until(lambda: source.is_open)
        assert counts.has_store
        stats.is_away = True
        told = source.put(*accesses(1))
        await until(lambda: source.times_given_back == 1)
        pings = stats.pings
        await until(lambda: stats.pings >= pings + 10)  # a long outage
        await until(lambda: not counts.has_store)
        assert (source.times_given_back, source.is_open, len(stats.calls)) == (1, False, 1)
        stats.is_away = False
        await until(lambda: told.is_acknowledged)
        assert stats.calls == [1, 1]
        assert counts.has_store


async def test_a_second_outage_is_as_the_first(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    stats.grace_seconds = 0
    async with running(source, stats, clock):
        for outage in range(1, 4):
            await until(lambda: source.is_open)
            stats.is_away = True
            told = source.put(*accesses(outage))
            await until(lambda: source.times_given_back == outage)  # noqa: B023 (it is over before the next)
            stats.is_away = False
            await until(lambda: told.is_acknowledged)  # noqa: B023


async def test_a_store_that_answers_and_takes_nothing_is_asked_less_and_less_often(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_FIRST_PAUSE_SECONDS", 0.1)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def told(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", told)
    stats.grace_seconds, stats.takes_nothing = 0, True
    async with running(source, stats, clock):
        told_first = source.put(*accesses(1))
        await until(lambda: len(pauses) == 12)
        assert pauses == [0.1 * 2**n for n in range(9)] + [30.0, 30.0, 30.0]
        stats.takes_nothing = False
        await until(lambda: told_first.is_acknowledged)
        stats.takes_nothing = True
        del pauses[:]
        source.put(*accesses(2))
        await until(lambda: pauses)
        assert pauses[0] == 0.1  # a success counts


async def test_a_slow_call_does_not_hold_up_the_next_and_four_are_under_way_at_most(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    stats.held = asyncio.Event()
    stats.grace_seconds = 0
    async with running(source, stats, clock):
        told = []
        for number in range(4):
            told.append(source.put(*accesses(number)))
            await until(lambda: len(stats.calls) == number + 1)  # noqa: B023 (it is over before the next)
        told += [source.put(*accesses(number)) for number in range(4, 10)]
        await turns()
        assert (stats.under_way, len(stats.calls)) == (4, 4)
        stats.held.set()
        await until(lambda: all(one.is_acknowledged for one in told))
        assert stats.most_under_way == 4
        assert stats.calls == [1, 1, 1, 1, 6]  # what came meanwhile goes together


async def test_a_call_brings_about_two_thousand_events_and_all_are_brought(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    stats.grace_seconds = 0
    for first in range(0, 25_600, 256):
        source.put(*accesses(*range(first, first + 256)))
    async with running(source, stats, clock):
        await until(lambda: all(one.is_acknowledged for one in source.deliveries_made))
        assert len(stats.counted) == 25_600
        assert max(stats.calls) == 2048


@pytest.mark.parametrize("goes_wrong", [None, StoreUnavailable("away")])
async def test_a_stop_in_the_middle_of_a_call_acknowledges_nothing_and_gives_all_back(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock, goes_wrong: Exception | None
) -> None:
    """Also when the call answers its cancellation with an error, as a lost connection may."""
    stats.held, stats.ends_cancelled_calls_with = asyncio.Event(), goes_wrong
    tasks_before = asyncio.all_tasks()
    async with running(source, stats, clock):
        told = source.put(*accesses(1))
        await until(lambda: stats.under_way)
    assert not told.is_acknowledged
    assert (source.times_given_back, stats.under_way) == (1, 0)
    assert asyncio.all_tasks() == tasks_before


async def test_an_end_of_the_deliveries_that_nobody_asked_for_is_not_passed_over(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock
) -> None:
    class Broken(ScriptedSource):
        async def _each(self) -> AsyncIterator[Told]:
            async for told in super()._each():
                yield told
                raise RuntimeError("a defect")

    broken = Broken()
    broken.put(*accesses(1))
    counts = Counting(cast(EventSource, broken), cast(StatsStore, stats), lambda: NOW, clock)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(counts.run(), 5)


async def test_tidying_goes_on_after_the_store_was_away(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_TIDY_SECONDS", 0.001)
    times: list[datetime] = []

    async def tidy(now: datetime) -> None:
        times.append(now)
        if len(times) == 1:
            raise StoreUnavailable("away")

    monkeypatch.setattr(stats, "tidy", tidy)
    counts = Counting(cast(EventSource, source), cast(StatsStore, stats), lambda: NOW, clock)
    task = asyncio.create_task(counts.tidy())
    await until(lambda: len(times) == 3)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and times == [NOW] * 3


def written(seq: int, **changed: Any) -> bytes:
    return encode("epoch", seq, "event", "cat", changed.get("at", NOW), None, None, None, None)


async def test_whatever_can_be_read_as_an_event_can_be_counted(
    source: ScriptedSource, clock: MonotonicClock, tmp_path: Path
) -> None:
    store = SqliteStats(tmp_path / "stats.db", retention=timedelta(days=1), clock=lambda: NOW)
    extremes = [
        *decode(written(2**48 - 1)),
        *decode(written(0, at=datetime(1970, 1, 1, tzinfo=UTC))),
        *decode(written(1, at=datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC))),
    ]
    async with contextlib.aclosing(cast(Any, Closing(store))), running(source, store, clock):
        told = source.put(*extremes)
        await until(lambda: told.is_acknowledged)
        cat = await store.of("cat")
        assert cat and cat.access_count == 3


@pytest.mark.parametrize("seq", [2**48, 2**53, 2**64])
def test_a_number_that_no_store_could_tell_from_others_is_no_event(seq: int) -> None:
    with pytest.raises(NotAnEvent):
        decode(written(0).replace(b'"seq":0', b'"seq":%d' % seq))


# ---- what is missing


async def test_with_the_events_goes_how_far_their_epochs_have_come() -> None:
    source, stats = ScriptedSource(), ScriptedStats(grace_seconds=0)
    progress = Progress("epoch", "pod-1", 9, is_last=False)
    source.put(*accesses(1)).progress = progress
    async with running(source, stats, MonotonicClock()):
        await until(lambda: stats.told == [progress])


async def test_what_is_missing_is_a_metric_by_shortener_and_hour_until_it_heals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "_RECONCILE_SECONDS", 0)
    monkeypatch.setattr(counting, "_MOST_HOURS", 2)
    hours = [NOW - timedelta(hours=hour) for hour in range(4)]
    stats = ScriptedStats(drifts=[Drift("pod-1", f"e{number}", hour, 3) for number, hour in enumerate(hours)])
    counts = Counting(cast(EventSource, ScriptedSource()), cast(StatsStore, stats), lambda: NOW)

    def shown() -> dict[tuple[str, str], float]:
        (metric,) = COUNTS_MISSING.collect()
        return {(one.labels["shortener"], one.labels["hour"]): one.value for one in metric.samples}

    reconciling = asyncio.create_task(counts.reconcile())
    expected = {("pod-1", "2026-11-23T10"): 3, ("pod-1", "2026-11-23T09"): 3, ("others", "others"): 6}
    await until(lambda: shown() == expected)
    stats.is_away = True
    await turns(20)
    assert shown() == expected, "what cannot be asked has not healed"
    stats.is_away, stats.drifts = False, []
    await until(lambda: shown() == {})
    reconciling.cancel()


async def test_a_store_that_fails_before_anything_may_be_acknowledged_is_asked_less_and_less_often(
    source: ScriptedSource, stats: ScriptedStats, clock: MonotonicClock, caplog: pytest.LogCaptureFixture
) -> None:
    def pauses() -> list[float]:
        return [vars(line)["pause_seconds"] for line in caplog.records if line.msg == "counting_paused"]

    async def fail() -> None:
        times = source.times_given_back
        stats.is_away = True
        await until(lambda: source.times_given_back == times + 1)
        stats.is_away = False

    async with running(source, stats, clock):
        told = source.put(*accesses(1))
        for _ in range(4):
            calls = len(stats.calls)
            await until(lambda: len(stats.calls) > calls)  # noqa: B023 (it is counted, each time)
            await fail()
        assert pauses() == [0.001 * 2**outage for outage in range(4)]
        calls = len(stats.calls)
        await until(lambda: len(stats.calls) > calls)
        clock.seconds += 4
        await until(lambda: told.is_acknowledged)
        source.put(*accesses(2))
        await until(lambda: len(stats.calls) > calls + 1)
        await fail()
        assert pauses()[4:] == [0.001]
