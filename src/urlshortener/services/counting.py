"""From the channel into the counts: the analytics side of the road."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from itertools import chain

from urlshortener.errors import StoreUnavailable
from urlshortener.events.channel import Delivery, EventSource
from urlshortener.stats.store import StatsStore
from urlshortener.telemetry import (
    EVENT_AGE_SECONDS,
    EVENTS_COUNTED,
    EVENTS_DUPLICATE,
    LOG,
    STATS_AVAILABLE,
)

_MOST_EVENTS = 2048  # counted in one call: enough to fill a round trip, few enough to be quick
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_TIDY_SECONDS = 300.0


class Counting:
    """Takes events from a source and has them counted, until cancelled.

    While the store of counts is away nothing is consumed: what had been delivered is given back once, and asked for
    again when the store takes writes. So a long outage costs an event one redelivery, not one for every attempt, and
    never brings it to the dead letters.
    """

    def __init__(self, source: EventSource, stats: StatsStore, now: Callable[[], datetime]) -> None:
        self._source = source
        self._stats = stats
        self._now = now

    async def run(self) -> None:
        while True:
            await self._store_answers()
            try:
                async with self._source.deliveries() as deliveries, _gathered(deliveries) as arrived:
                    while True:
                        await self._count(await arrived.next())
            except StoreUnavailable:
                STATS_AVAILABLE.set(0)
                LOG.warning("counting_paused")

    async def _count(self, batch: list[Delivery]) -> None:
        events = list(chain.from_iterable(delivery.events for delivery in batch))
        recorded = await self._stats.record(events)
        for delivery in batch:
            delivery.acknowledge()
        EVENTS_COUNTED.inc(recorded.counted)
        EVENTS_DUPLICATE.inc(recorded.duplicates)
        now = self._now()
        for event in events:
            EVENT_AGE_SECONDS.observe((now - event.at).total_seconds())

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


class _Arrived:
    """Deliveries that came while the last ones were being counted."""

    def __init__(self) -> None:
        self._deliveries: list[Delivery] = []
        self._came = asyncio.Event()
        self._ended: BaseException | None = None

    async def collect(self, deliveries: AsyncIterator[Delivery]) -> None:
        try:
            async for delivery in deliveries:
                self._deliveries.append(delivery)
                self._came.set()
        except Exception as error:
            self._ended = error
            self._came.set()

    async def next(self) -> list[Delivery]:
        """What has come, up to about _MOST_EVENTS; waits for the first."""
        while not self._deliveries:
            if self._ended:
                raise self._ended
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
    task = asyncio.create_task(arrived.collect(deliveries))
    try:
        yield arrived
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
