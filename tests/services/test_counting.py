"""When a batch may be acknowledged, and what happens while the store of counts is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import cast

import pytest

from urlshortener.errors import StoreUnavailable
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.services.counting import Counting
from urlshortener.stats.store import Recorded, StatsStore

_AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class ScriptedDelivery:
    def __init__(self, seq: int) -> None:
        self.events = [AccessEvent(EventId("epoch", seq), "cat", _AT)]
        self.is_acknowledged = False

    def acknowledge(self) -> None:
        self.is_acknowledged = True

    def give_back(self) -> None: ...


class ScriptedSource:
    """Delivers what is put into it; what was out when it was left comes again."""

    is_connected = True

    def __init__(self) -> None:
        self.waiting: list[ScriptedDelivery] = []
        self.out: list[ScriptedDelivery] = []
        self.times_entered = 0
        self._came = asyncio.Event()

    def put(self, delivery: ScriptedDelivery) -> ScriptedDelivery:
        self.waiting.append(delivery)
        self._came.set()
        return delivery

    @contextlib.asynccontextmanager
    async def deliveries(self) -> AsyncIterator[AsyncIterator[ScriptedDelivery]]:
        self.times_entered += 1
        try:
            yield self._give()
        finally:
            self.waiting = [delivery for delivery in self.out if not delivery.is_acknowledged] + self.waiting
            self.out = []

    async def _give(self) -> AsyncIterator[ScriptedDelivery]:
        while True:
            while self.waiting:
                delivery = self.waiting.pop(0)
                self.out.append(delivery)
                yield delivery
            self._came.clear()
            await self._came.wait()

    async def close(self) -> None: ...


class ScriptedStats:
    """A store that may roll back, be late with its replicas, or be away, as told."""

    grace_seconds = 3.0
    generation = 0

    def __init__(self) -> None:
        self.recorded: list[AccessEvent] = []
        self.calls = 0
        self.is_replicated = True
        self.answers_ping = True
        self.records = True
        self.hold: asyncio.Event | None = None
        self.under_way = 0
        self.most_under_way = 0

    async def record(self, batch: Sequence[AccessEvent]) -> Recorded:
        self.calls += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if not self.records:
                raise StoreUnavailable("away")
            new = [event for event in batch if event not in self.recorded]
            self.recorded += new
            return Recorded(len(new), len(batch) - len(new), self.is_replicated, self.generation)
        finally:
            self.under_way -= 1

    async def ping(self) -> None:
        if not self.answers_ping:
            raise StoreUnavailable("away")


class Bench:
    """A Counting with all around it scripted, the clock too."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.source = ScriptedSource()
        self.stats = ScriptedStats()
        self.counting = Counting(self.source, cast(StatsStore, self.stats), lambda: _AT, lambda: self.seconds)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """The settling has had its turn twice."""
        await asyncio.sleep(0.6)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    running = asyncio.create_task(bench.counting.run())
    yield bench
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_batch_is_acknowledged_when_it_is_older_than_the_grace(bench: Bench) -> None:
    delivery = bench.source.put(ScriptedDelivery(0))
    await bench.until(lambda: len(bench.stats.recorded) == 1)
    bench.seconds = 2.9
    await bench.settled()
    assert not delivery.is_acknowledged
    bench.seconds = 3.0
    await bench.until(lambda: delivery.is_acknowledged)
    assert bench.stats.calls == 1


async def test_what_another_process_of_the_store_counted_is_counted_again_before_it_is_acknowledged(
    bench: Bench,
) -> None:
    delivery = bench.source.put(ScriptedDelivery(0))
    await bench.until(lambda: len(bench.stats.recorded) == 1)
    bench.stats.recorded.clear()  # a failover undid it
    bench.stats.generation = 1
    bench.seconds = 5.0
    await bench.until(lambda: len(bench.stats.recorded) == 1)
    await bench.settled()
    assert not delivery.is_acknowledged  # its grace begins anew
    bench.seconds = 8.0
    await bench.until(lambda: delivery.is_acknowledged)


async def test_what_no_replica_has_is_counted_again_and_not_acknowledged(bench: Bench) -> None:
    bench.stats.is_replicated = False
    delivery = bench.source.put(ScriptedDelivery(0))
    await bench.until(lambda: len(bench.stats.recorded) == 1)
    bench.seconds = 4.0
    await bench.until(lambda: bench.stats.calls >= 2)
    assert not delivery.is_acknowledged
    bench.stats.is_replicated = True
    bench.seconds = 8.0
    await bench.until(lambda: bench.stats.calls >= 3)
    bench.seconds = 12.0
    await bench.until(lambda: delivery.is_acknowledged)


async def test_a_store_that_forgets_nothing_is_acknowledged_at_once() -> None:
    bench = Bench()
    bench.stats.grace_seconds = 0.0
    running = asyncio.create_task(bench.counting.run())
    delivery = bench.source.put(ScriptedDelivery(0))
    await bench.until(lambda: delivery.is_acknowledged)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_while_the_store_is_away_nothing_is_consumed_and_then_all_is_counted(bench: Bench) -> None:
    await bench.until(lambda: bench.source.times_entered == 1)
    bench.stats.records = bench.stats.answers_ping = False
    deliveries = [bench.source.put(ScriptedDelivery(seq)) for seq in range(5)]
    await bench.until(lambda: bench.stats.calls > 0 and not bench.source.out)
    await asyncio.sleep(0.5)
    assert bench.source.times_entered == 1  # it asks the store, not the broker
    bench.stats.records = bench.stats.answers_ping = True
    await bench.until(lambda: len(bench.stats.recorded) == 5)
    assert bench.source.times_entered == 2
    bench.seconds = 10.0
    await bench.until(lambda: all(delivery.is_acknowledged for delivery in deliveries))


async def test_a_second_outage_is_as_the_first(bench: Bench) -> None:
    for outage in range(3):
        await bench.until(lambda: bench.source.times_entered >= 1)
        bench.stats.records = False
        bench.source.put(ScriptedDelivery(outage))
        entered = bench.source.times_entered
        await bench.until(lambda: bench.source.times_entered > entered)  # noqa: B023
        bench.stats.records = True
        await bench.until(lambda: len(bench.stats.recorded) == outage + 1)  # noqa: B023


async def test_a_store_that_answers_and_counts_nothing_is_not_asked_all_the_time(bench: Bench) -> None:
    bench.stats.records = False
    bench.source.put(ScriptedDelivery(0))
    await bench.until(lambda: bench.stats.calls >= 3)
    before = bench.stats.calls
    await asyncio.sleep(0.3)
    assert bench.stats.calls <= before + 1


async def test_a_slow_call_holds_up_only_so_many_others(bench: Bench) -> None:
    bench.stats.hold = asyncio.Event()
    for seq in range(20):
        bench.source.put(ScriptedDelivery(seq))
        await asyncio.sleep(0.01)
    await bench.until(lambda: bench.stats.under_way >= 2)
    bench.stats.hold.set()
    await bench.until(lambda: len(bench.stats.recorded) == 20)
    assert 2 <= bench.stats.most_under_way <= 4
