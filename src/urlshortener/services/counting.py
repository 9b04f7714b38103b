"""From the channel into the counts: the analytics side of the road."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from urlshortener.errors import StoreUnavailable
from urlshortener.events.channel import Delivery, EventSource
from urlshortener.events.event import AccessEvent
from urlshortener.stats.store import Recorded, StatsStore
from urlshortener.telemetry import (
    EVENT_AGE_SECONDS,
    EVENTS_COUNTED,
    EVENTS_DUPLICATE,
    LOG,
    STATS_AVAILABLE,
)

_MOST_EVENTS = 2048  # counted in one call: enough to fill a round trip, few enough to be quick
_MOST_UNDER_WAY = 4  # calls: one that waits for a slow replica does not hold up the next
_SETTLE_SECONDS = 0.25
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_TIDY_SECONDS = 300.0


@dataclass(slots=True)
class _Batch:
    """What was counted in one call, and is acknowledged once nothing can undo it any more."""

    deliveries: Sequence[Delivery]
    events: Sequence[AccessEvent]
    recorded: Recorded
    recorded_at: float


class Counting:
    """Takes events from a source and has them counted, until cancelled.

    **Acknowledged late.** A Redis that fails over, or is killed and restarts, may forget what it counted in its last
    moments. So a batch is acknowledged only when it is replicated, older than the store's `grace_seconds`, and the
    store has answered since as the same process. Until then the broker keeps it: if the store is another process now,
    the batch is counted again, and each event's identity decides whether that changes anything. A store that forgets
    nothing has no grace: there, counted is acknowledged.

    **While the store is away nothing is consumed.** What had been delivered is given back once, and asked for again
    when the store takes writes. So a long outage costs an event one redelivery, not one for every attempt, and never
    brings it to the dead letters.
    """

    def __init__(
        self,
        source: EventSource,
        stats: StatsStore,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._stats = stats
        self._now = now
        self._clock = clock
        self._unsettled: list[_Batch] = []

    async def run(self) -> None:
        while True:
            await self._store_answers()
            self._unsettled = []
            try:
                async with self._source.deliveries() as deliveries, asyncio.TaskGroup() as group:
                    group.create_task(self._count_all(deliveries))
                    if self._stats.grace_seconds:
                        group.create_task(self._settle_all())
            except* StoreUnavailable:
                STATS_AVAILABLE.set(0)
                LOG.warning("counting_paused")

    async def _count_all(self, deliveries: AsyncIterator[Delivery]) -> None:
        free = asyncio.Semaphore(_MOST_UNDER_WAY)
        async with _gathered(deliveries) as arrived, asyncio.TaskGroup() as group:
            while True:
                await free.acquire()
                counted = group.create_task(self._count(await arrived.next()))
                counted.add_done_callback(lambda _: free.release())

    async def _count(self, deliveries: Sequence[Delivery]) -> None:
        events = list(chain.from_iterable(delivery.events for delivery in deliveries))
        recorded = await self._stats.record(events)
        EVENTS_COUNTED.inc(recorded.counted)
        EVENTS_DUPLICATE.inc(recorded.duplicates)
        now = self._now()
        for event in events:
            EVENT_AGE_SECONDS.observe((now - event.at).total_seconds())
        batch = _Batch(deliveries, events, recorded, self._clock())
        if self._stats.grace_seconds:
            self._unsettled.append(batch)
        else:
            _acknowledge(batch)

    async def _settle_all(self) -> None:
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            due_before = self._clock() - self._stats.grace_seconds
            if any(batch.recorded_at <= due_before for batch in self._unsettled):
                await self._settle(due_before)

    async def _settle(self, due_before: float) -> None:
        await self._stats.ping()  # so that the generation is the one of now, not of the last call
        undone = [batch for batch in self._unsettled if self._may_be_undone(batch)]
        for batch in undone:
            batch.recorded = await self._stats.record(batch.events)
            batch.recorded_at = self._clock()
        if undone:
            LOG.info("counted_again", extra={"batches": len(undone)})
            return
        due = [batch for batch in self._unsettled if batch.recorded_at <= due_before]
        self._unsettled = [batch for batch in self._unsettled if batch.recorded_at > due_before]
        for batch in due:
            _acknowledge(batch)

    def _may_be_undone(self, batch: _Batch) -> bool:
        return not batch.recorded.replicated or batch.recorded.generation != self._stats.generation

    async def _store_answers(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._stats.ping()
            except StoreUnavailable:
                STATS_AVAILABLE.set(0)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                STATS_AVAILABLE.set(1)
                return

    async def tidy(self) -> None:
        """Close finished days and forget what is past its retention, every few minutes, until cancelled."""
        while True:
            try:
                await self._stats.tidy(self._now())
            except StoreUnavailable:
                LOG.info("tidy_postponed")
            await asyncio.sleep(_TIDY_SECONDS)


def _acknowledge(batch: _Batch) -> None:
    for delivery in batch.deliveries:
        delivery.acknowledge()


class _Arrived:
    """Deliveries that came while others were being counted."""

    def __init__(self) -> None:
        self._deliveries: list[Delivery] = []
        self._came = asyncio.Event()

    async def collect(self, deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            self._deliveries.append(delivery)
            self._came.set()

    async def next(self) -> list[Delivery]:
        """What has come, up to about _MOST_EVENTS; waits for the first."""
        while not self._deliveries:
            self._came.clear()
            await self._came.wait()
        events, taken = 0, 0
        while taken < len(self._deliveries) and events < _MOST_EVENTS:
            events += len(self._deliveries[taken].events)
            taken += 1
        batch, self._deliveries = self._deliveries[:taken], self._deliveries[taken:]
        return batch


@contextlib.asynccontextmanager
async def _gathered(deliveries: AsyncIterator[Delivery]) -> AsyncIterator[_Arrived]:
    arrived = _Arrived()
    async with asyncio.TaskGroup() as group:
        collecting = group.create_task(arrived.collect(deliveries))
        yield arrived
        collecting.cancel()
