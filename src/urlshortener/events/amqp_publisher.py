"""From the spool to the exchange: every event until the broker has confirmed it."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Never

from pamqp.commands import Basic

from urlshortener.events.amqp_connection import Broker, Connection, Dialler, Lost, NotTaken, Patience, in_our_words
from urlshortener.events.amqp_topology import Topology
from urlshortener.events.spool import Batch, Spool
from urlshortener.events.traces import publishing
from urlshortener.telemetry import (
    BROKER_BLOCKED,
    BROKER_CONNECTED,
    CONFIRM_SECONDS,
    EVENTS_CONFIRMED,
    LOG,
    MESSAGES_UNCONFIRMED,
)

_MOST_EVENTS = 256
_GATHER_SECONDS = 0.05
_SHORT_GATHER_SECONDS = 0.01
_WELL_FILLED = 64  # events of a message
_FULL = 128  # whole frames seldom fill one to the last event
_FULL_BYTES = 64 * 1024  # of visitors who say much, fewer are as many
_MOST_MESSAGES_UNCONFIRMED = 64
_MOST_BYTES_UNCONFIRMED = 1 << 20
# A quorum that elects a leader confirms late, not never: in unlucky orders it takes ten seconds.
_CONFIRM_LIMIT_SECONDS = 15.0
_LOOK_SECONDS = 0.25
_SCHEMA = 1
_HOST = os.uname().nodename


class AmqpPublisher:
    """Sends the spool to the broker, and tells the spool what is confirmed. Nothing else ever leaves the spool.

    A message is some consecutive events of one epoch, and its confirm is the only proof that they are kept. Anything
    else (an error, a nack, a return, which the broker confirms like any other message, a confirm that is late) leaves
    them unproven: the connection is dropped and the spool gives them out again. The numbers of a channel's confirms
    cannot be trusted after a failure, so that a channel is never used again.

    The headers let whoever counts find what never came: `first_seq` and `count` say what is in the message,
    `highest_seq` what the epoch has had so far, `last_of_epoch` that no more will follow, and `host` whose it is. The
    end of an epoch whose events are all gone before is a message of its own, an array without events.
    """

    def __init__(self, broker: Broker, topology: Topology, spool: Spool) -> None:
        self._dialler = Dialler(broker, topology, "publish")
        self._topology = topology
        self._spool = spool
        self._patience = Patience()
        self._progress = asyncio.Event()
        self.is_connected = False

    async def run(self) -> None:
        """Publish until cancelled, through every outage."""
        while True:
            pause_seconds = await self._publish_over_one_connection()
            await asyncio.sleep(pause_seconds)

    async def drain(self, limit_seconds: float) -> int:
        """Wait, while `run` runs, until all of the spool is confirmed, or the limit; returns how many are left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                while self._spool.unsent:
                    self._progress.clear()
                    await self._progress.wait()
        return self._spool.unsent

    def _connection(self) -> AbstractAsyncContextManager[Connection]:
        return self._dialler.connection()

    async def _publish_over_one_connection(self) -> float:
        """Until it fails; returns the seconds to wait before the next."""
        failure = Lost("The connection closed.")
        try:
            async with self._connection() as connection:
                self._says_connected(True)
                await self._publish(connection)
        except* Lost as failures:
            failure = _worst_of(failures)
        finally:
            self._spool.rewind()
            if self.is_connected:
                LOG.info("publishing_interrupted", extra={"reason": str(failure)})
            self._says_connected(False)
        return self._patience.seconds_after(failure)

    def _says_connected(self, connected: bool) -> None:
        self.is_connected = connected
        BROKER_CONNECTED.labels("publish").set(connected)
        BROKER_BLOCKED.set(0)
        MESSAGES_UNCONFIRMED.set(0)

    async def _publish(self, connection: Connection) -> Never:
        window = _Window()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.fail_when_lost())
            tasks.create_task(_fail_when_late(connection, window))
            while True:
                await window.room()
                batch = await self._spool.take(_MOST_EVENTS)
                await connection.unblocked()
                window.sent(batch)
                tasks.create_task(self._send(connection, batch, window))
                await asyncio.sleep(self._gather_seconds(batch))

    def _gather_seconds(self, last: Batch) -> float:
        """How long to wait for company. A lone event goes at once; the next ones wait.

        A consumer holds its messages for seconds before it acknowledges them, and holds a thousand at most: messages of
        few events have to be few. So there are some thirty a second at most, unless they are well filled.
        """
        if last.count >= _FULL or len(last.body) >= _FULL_BYTES:  # there may be more than one message takes
            return 0.0
        if last.count >= _WELL_FILLED or self._spool.is_strict:  # where visitors wait for it
            return _SHORT_GATHER_SECONDS
        return _GATHER_SECONDS

    async def _send(self, connection: Connection, batch: Batch, window: "_Window") -> None:
        with publishing(batch.body, self._topology.exchange, self._topology.routing_key) as trace_headers:
            with in_our_words():
                answer = await connection.channel.basic_publish(
                    batch.body if batch.count == 1 else b"[%b]" % batch.body,
                    exchange=self._topology.exchange,
                    routing_key=self._topology.routing_key,
                    properties=_properties(batch, trace_headers),
                    mandatory=True,
                )
            if not isinstance(answer, Basic.Ack):
                raise NotTaken("The message was not confirmed.")
        CONFIRM_SECONDS.observe(window.confirmed(batch))
        EVENTS_CONFIRMED.inc(batch.count)
        self._spool.done(batch)
        self._patience.succeeded()
        self._progress.set()


def _properties(batch: Batch, trace_headers: Mapping[str, Any] = MappingProxyType({})) -> Basic.Properties:
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=f"{batch.epoch}:{batch.first_seq}",
        headers={
            "epoch": batch.epoch,
            "first_seq": batch.first_seq,
            "count": batch.count,
            "last_of_epoch": batch.last_of_epoch,
            "highest_seq": batch.highest_seq,
            "host": _HOST,
            "schema": _SCHEMA,
            **trace_headers,
        },
    )


def _worst_of(failures: BaseExceptionGroup[Lost]) -> Lost:
    """The failure that asks for the longest pause: a nack is often followed by the end of the connection."""
    flat = [failure for failure in failures.exceptions if isinstance(failure, Lost)]
    return max(flat, key=lambda failure: failure.longest_pause_seconds, default=Lost("The connection closed."))


@dataclass(slots=True)
class _Sent:
    at: float
    size: int


class _Window:
    """Messages that are not confirmed yet: enough to hide the round trip, few enough to send again."""

    def __init__(self) -> None:
        # The end of an epoch, told alone, and an event that came after all have one number: their counts differ.
        self._sent: dict[tuple[str, int, int], _Sent] = {}
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._now = asyncio.get_running_loop().time

    async def room(self) -> None:
        await self._has_room.wait()

    def sent(self, batch: Batch) -> None:
        self._sent[batch.epoch, batch.first_seq, batch.count] = _Sent(self._now(), len(batch.body))
        self._resize(len(batch.body))

    def confirmed(self, batch: Batch) -> float:
        """The seconds that it took."""
        sent = self._sent.pop((batch.epoch, batch.first_seq, batch.count))
        self._resize(-sent.size)
        return self._now() - sent.at

    def _resize(self, size: int) -> None:
        self._bytes += size
        MESSAGES_UNCONFIRMED.set(len(self._sent))
        if len(self._sent) < _MOST_MESSAGES_UNCONFIRMED and self._bytes < _MOST_BYTES_UNCONFIRMED:
            self._has_room.set()
        else:
            self._has_room.clear()

    def longest_wait_seconds(self, since: float) -> float:
        """How long the oldest message has waited, not counting the time before `since`."""
        oldest = next(iter(self._sent.values()), None)  # they were put in by age
        return 0.0 if oldest is None else self._now() - max(oldest.at, since)


async def _fail_when_late(connection: Connection, window: _Window) -> Never:
    """Raise when a confirm is late. A broker that says it takes nothing is not late; heartbeats tell if it lives."""
    now = asyncio.get_running_loop().time
    last_blocked = 0.0
    while window.longest_wait_seconds(last_blocked) < _CONFIRM_LIMIT_SECONDS:
        await asyncio.sleep(_LOOK_SECONDS)
        blocked = await connection.is_blocked()
        BROKER_BLOCKED.set(blocked)
        if blocked:
            last_blocked = now()
    raise Lost("The broker did not confirm in time.")
