"""`in-process://`: the counting side reads the spool itself. No second queue, and the same promises as a broker's."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec

from urlshortener.events.event import AccessEvent, NotAnEvent, Progress, decode
from urlshortener.events.spool import Batch, Spool
from urlshortener.events.traces import taken
from urlshortener.telemetry import DEAD_LETTERS, LOG

_MOST_EVENTS_OUT = 32_768
_MOST_EVENTS = 256
_AGAIN_SECONDS = 30.0
_HOST = os.uname().nodename

_parts = msgspec.json.Decoder(list[msgspec.Raw])


class SpoolDelivery:
    """A batch of the spool, to be counted."""

    def __init__(self, batch: Batch, events: Sequence[AccessEvent], out: "_Out") -> None:
        self.batch = batch
        self.events = events
        self.progress = Progress(batch.epoch, _HOST, batch.highest_seq, batch.last_of_epoch)
        self.arrival = taken(batch.body)
        self._out = out

    def acknowledge(self) -> None:
        self._out.acknowledged(self)

    def give_back(self) -> None:
        self._out.given_back(self)


class InProcessSource:
    """An EventSource on the spool of this process; one consumer at a time.

    To give one delivery back is to give back all that are out: the spool goes back to the first that is not done,
    and the counts know what they have had.
    """

    is_connected = True

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    @contextlib.asynccontextmanager
    async def deliveries(self) -> AsyncIterator[AsyncIterator[SpoolDelivery]]:
        out = _Out(self._spool)
        try:
            yield out.deliveries()
        finally:
            out.end()

    async def close(self) -> None:
        """The spool belongs to the one who appends to it, and is closed there."""


class _Out:
    """What is delivered and not acknowledged."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._deliveries: set[SpoolDelivery] = set()
        self._events = 0
        self._room = asyncio.Event()
        self._has_ended = False
        self._again: asyncio.TimerHandle | None = None

    async def deliveries(self) -> AsyncIterator[SpoolDelivery]:
        while not self._has_ended:
            await self._has_room()
            batch = await self._spool.take(_MOST_EVENTS)
            try:
                events = self._events_of(b"[" + batch.body + b"]", batch.epoch)
            except OSError:
                LOG.exception("dead_letter_not_kept")
                self._try_again_later()  # the batch is still in the spool; meanwhile the others are counted
                continue
            delivery = SpoolDelivery(batch, events, self)
            self._deliveries.add(delivery)
            self._events += batch.count
            yield delivery

    async def _has_room(self) -> None:
        while self._events >= _MOST_EVENTS_OUT:
            self._room.clear()
            await self._room.wait()

    def _events_of(self, body: bytes, epoch: str) -> list[AccessEvent]:
        """Those that can be read. Each of the others is set aside alone; OSError, if that fails."""
        try:
            return decode(body)
        except NotAnEvent as reason:
            try:
                parts = [bytes(part) for part in _parts.decode(body)]
            except msgspec.DecodeError:
                self._set_aside(body, epoch, reason)
                return []
        events = []
        for part in parts:
            try:
                events += decode(part)
            except NotAnEvent as reason:
                self._set_aside(part, epoch, reason)
        return events

    def _set_aside(self, body: bytes, epoch: str, reason: NotAnEvent) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        letter = {"at": at, "reason": str(reason), "epoch": epoch, "body": body.decode(errors="backslashreplace")}
        self._spool.set_aside(json.dumps(letter).encode())
        DEAD_LETTERS.inc()
        LOG.error("dead_letter", extra={"epoch": epoch, "reason": str(reason)})

    def acknowledged(self, delivery: SpoolDelivery) -> None:
        if delivery in self._deliveries:
            self._deliveries.remove(delivery)
            self._events -= delivery.batch.count
            self._room.set()
            self._spool.done(delivery.batch)

    def given_back(self, delivery: SpoolDelivery) -> None:
        if delivery in self._deliveries:
            self._take_again()

    def _try_again_later(self) -> None:
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._take_again)

    def _take_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._deliveries.clear()
        self._events = 0
        self._spool.rewind()
        self._room.set()

    def end(self) -> None:
        """Give back what is out; what is acknowledged later than this counts for nothing."""
        self._has_ended = True
        self._take_again()
