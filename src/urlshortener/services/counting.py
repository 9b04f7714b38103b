"""From the channel into the counts: the analytics side of the road."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from urlshortener.errors import StoreUnavailable
from urlshortener.events import traces
from urlshortener.events.channel import Delivery, EventSource
from urlshortener.events.event import AccessEvent
from urlshortener.stats.store import Drift, Recorded, StatsStore
from urlshortener.telemetry import (
    COUNTS_MISSING,
    EVENT_AGE_SECONDS,
    EVENTS_COUNTED,
    EVENTS_DUPLICATE,
    EVENTS_RETRIED,
    LOG,
    REQUESTS_UNREMEMBERED,
    STATS_AVAILABLE,
    observe_many,
)

_MOST_EVENTS = 2048  # counted in one call: enough to fill a round trip, few enough to be quick
_MOST_UNDER_WAY = 4  # calls: one that waits for a slow replica does not hold up the next
_SETTLE_SECONDS = 0.25
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PING_PAUSE_SECONDS = 1.0  # counts are late by that much more than the store was away
_LONGEST_PAUSE_SECONDS = 30.0  # where the store answers, and yet takes nothing
_TIDY_SECONDS = 300.0
_RECONCILE_SECONDS = 15.0
_MOST_HOURS = 50  # labels of one metric


@dataclass(slots=True)
class _Batch:
    """What was counted in one call, and is acknowledged once nothing can undo it any more."""

    deliveries: Sequence[Delivery]
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
    brings it to the dead letters. A store that answers, but takes no batch (a full disk, a wrong right), or fails
    before one may be acknowledged, is asked less and less often.
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
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self.has_store = False  # as far as is known

    async def run(self) -> None:
        while True:
            await self._store_answers()
            self._unsettled = []
            try:
                async with self._source.deliveries() as deliveries, asyncio.TaskGroup() as group:
                    group.create_task(self._count_all(deliveries))
                    if self._stats.grace_seconds:
                        group.create_task(self._settle_all())
                    # In the body: in Python 3.11 a child that fails while its group is being left counts its owner as
                    # cancelled for good.
                    await asyncio.Event().wait()
            except* StoreUnavailable:
                self._store_is_there(False)
                LOG.warning("counting_paused", extra={"pause_seconds": self._pause_seconds})
            _leave_if_cancelled()
            await asyncio.sleep(self._pause_seconds)
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

    async def _count_all(self, deliveries: AsyncIterator[Delivery]) -> None:
        free = asyncio.Semaphore(_MOST_UNDER_WAY)
        async with _gathered(deliveries) as arrived, asyncio.TaskGroup() as group:
            while True:
                await free.acquire()
                counted = group.create_task(self._count(await arrived.next()))
                counted.add_done_callback(lambda _: free.release())

    async def _count(self, deliveries: Sequence[Delivery]) -> None:
        batch = await self._recorded(deliveries)
        EVENTS_COUNTED.inc(batch.recorded.counted)
        EVENTS_DUPLICATE.inc(batch.recorded.duplicates)
        EVENTS_RETRIED.inc(batch.recorded.retries)
        REQUESTS_UNREMEMBERED.inc(batch.recorded.unremembered)
        now = self._now()
        for at, times in Counter(event.at for event in _events(deliveries)).items():  # those of one turn have one time
            observe_many(EVENT_AGE_SECONDS, (now - at).total_seconds(), times)
        if self._stats.grace_seconds:
            self._unsettled.append(batch)
        else:
            self._acknowledge(batch)

    async def _recorded(self, deliveries: Sequence[Delivery]) -> _Batch:
        progress = [delivery.progress for delivery in deliveries if delivery.progress]
        with traces.counting(deliveries):
            recorded = await self._stats.record(_events(deliveries), progress)
        return _Batch(deliveries, recorded, self._clock())

    async def _settle_all(self) -> None:
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            if self._unsettled:
                await self._settle(self._clock() - self._stats.grace_seconds)

    async def _settle(self, due_before: float) -> None:
        """Asked often, however young the batches are: what a store forgot should be missing for a moment only."""
        await self._stats.ping()  # so that the generation is the one of now, not of the last call
        batches, self._unsettled = self._unsettled, []
        undone: list[Delivery] = []
        for batch in batches:
            is_due = batch.recorded_at <= due_before
            if self._may_be_forgotten(batch) or (is_due and not batch.recorded.replicated):
                undone += batch.deliveries
            elif is_due:
                self._acknowledge(batch)
            else:
                self._unsettled.append(batch)
        await self._count_again(undone)

    def _acknowledge(self, batch: _Batch) -> None:
        for delivery in batch.deliveries:
            delivery.acknowledge()
        self._pause_seconds = _FIRST_PAUSE_SECONDS  # only now: else a store that fails every second is asked as often

    async def _count_again(self, deliveries: list[Delivery]) -> None:
        """In large batches: while a store has no replica, each call waits for one."""
        if deliveries:
            LOG.info("counted_again", extra={"deliveries": len(deliveries)})
        while deliveries:
            batch, deliveries = _first_batch(deliveries)
            self._unsettled.append(await self._recorded(batch))

    def _may_be_forgotten(self, batch: _Batch) -> bool:
        """Another process has the counts now, and may have started without this batch."""
        return batch.recorded.generation != self._stats.generation

    async def _store_answers(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._stats.ping()
            except StoreUnavailable:
                self._store_is_there(False)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PING_PAUSE_SECONDS)
            else:
                self._store_is_there(True)
                return

    def _store_is_there(self, has_store: bool) -> None:
        self.has_store = has_store
        STATS_AVAILABLE.set(has_store)

    async def tidy(self) -> None:
        """Close finished days and forget what is past its retention, every few minutes, until cancelled."""
        while True:
            try:
                await self._stats.tidy(self._now())
            except StoreUnavailable:
                LOG.info("tidy_postponed")
            await asyncio.sleep(_TIDY_SECONDS)

    async def reconcile(self) -> None:
        """Say what was numbered and never came, every few seconds, until cancelled. All replicas say the same."""
        missed: dict[tuple[str, str], int] = {}
        while True:
            with contextlib.suppress(StoreUnavailable):
                before, missed = missed, _by_hour(await self._stats.drift())
                _say_missing(missed)
                if missed != before:
                    LOG.warning("counts_missing", extra={"missing": sum(missed.values()), "hours": _words(missed)})
            await asyncio.sleep(_RECONCILE_SECONDS)


def _by_hour(drifts: Sequence[Drift]) -> dict[tuple[str, str], int]:
    """How many are missing by shortener and hour; of many hours the latest, and the others in one."""
    missing: Counter[tuple[str, str]] = Counter()
    for number, drift in enumerate(sorted(drifts, key=lambda drift: drift.hour, reverse=True)):
        is_shown = number < _MOST_HOURS
        missing[(drift.host, f"{drift.hour:%Y-%m-%dT%H}") if is_shown else ("others", "others")] += drift.missing
    return dict(missing)


def _say_missing(missed: Mapping[tuple[str, str], int]) -> None:
    COUNTS_MISSING.clear()
    for (host, hour), how_many in missed.items():
        COUNTS_MISSING.labels(host, hour).set(how_many)


def _words(missed: Mapping[tuple[str, str], int]) -> list[str]:
    return [f"{host} {hour}: {how_many}" for (host, hour), how_many in missed.items()]


def _events(deliveries: Sequence[Delivery]) -> list[AccessEvent]:
    return list(chain.from_iterable(delivery.events for delivery in deliveries))


def _first_batch(deliveries: list[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
    """What to count in one call, of about _MOST_EVENTS, and the rest."""
    events, taken = 0, 0
    while taken < len(deliveries) and events < _MOST_EVENTS:
        events += len(deliveries[taken].events)
        taken += 1
    return deliveries[:taken], deliveries[taken:]


def _leave_if_cancelled() -> None:
    """A TaskGroup of Python 3.11 forgets that it was cancelled when one of its tasks fails in the same moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


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
        batch, self._deliveries = _first_batch(self._deliveries)
        return batch


@contextlib.asynccontextmanager
async def _gathered(deliveries: AsyncIterator[Delivery]) -> AsyncIterator[_Arrived]:
    arrived = _Arrived()
    async with asyncio.TaskGroup() as group:
        collecting = group.create_task(arrived.collect(deliveries))
        yield arrived
        collecting.cancel()
