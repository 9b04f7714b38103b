"""From the queue to whoever counts: delivered until acknowledged, and what is no event is set aside."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Never

import msgspec
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from urlshortener.errors import ChannelUnavailable
from urlshortener.events.amqp_connection import Broker, Connection, Dialler, Lost, NotTaken, Patience, in_our_words
from urlshortener.events.amqp_topology import Topology
from urlshortener.events.event import AccessEvent, NotAnEvent, Progress, decode
from urlshortener.events.traces import Arrival, arrived
from urlshortener.telemetry import BROKER_CONNECTED, DEAD_LETTERS, LOG

# Messages that may be out and not acknowledged. RabbitMQ bounds them by number only; one of ours is 256 events and
# 256 KiB at the most. Enough for a thousand messages to wait the seconds that a late acknowledgement takes.
_PREFETCH = 1000
_ANSWER_SECONDS = 10.0
_GOODBYE_SECONDS = 1.0
_QUIET_SECONDS = 30.0


class AmqpSource:
    """Receives from the queue. An EventSource: see events/channel.py for what it promises.

    Every connection is a session of its own: the numbers of its deliveries mean nothing on the next, where all that was
    not acknowledged comes again.
    """

    def __init__(
        self, broker: Broker, topology: Topology, prefetch: int = _PREFETCH, quiet_seconds: float = _QUIET_SECONDS
    ) -> None:
        self._dialler = Dialler(broker, topology, "consume")
        # A broker that runs out of memory stops reading connections that publish, and would then not read our
        # acknowledgements either. So dead letters travel on one of their own, opened when there is one.
        self._dead_letters = Dialler(broker, topology, "dead-letters")
        self._topology = topology
        self._prefetch = prefetch
        self._quiet_seconds = quiet_seconds
        self._patience = Patience()
        self._receiving: set[asyncio.Task[None]] = set()
        self.is_connected = False

    @contextlib.asynccontextmanager
    async def deliveries(self) -> AsyncIterator[AsyncIterator["AmqpDelivery"]]:
        """Connects on entry, and closes the connection on leaving, so that whatever is out comes again elsewhere."""
        inbox = _Inbox()
        receiving = asyncio.create_task(self._receive(inbox))
        receiving.add_done_callback(inbox.ended)
        self._receiving.add(receiving)
        try:
            yield inbox
        finally:
            self._receiving.discard(receiving)
            await _end(receiving)

    async def close(self) -> None:
        """End all deliveries."""
        for receiving in list(self._receiving):
            await _end(receiving)

    async def _receive(self, inbox: "_Inbox") -> None:
        while True:
            pause_seconds = await self._receive_over_one_connection(inbox)
            await asyncio.sleep(pause_seconds)

    async def _receive_over_one_connection(self, inbox: "_Inbox") -> float:
        """Until it fails or deliveries are given back; returns the seconds to wait before the next."""
        failure = Lost("The connection closed.")
        try:
            async with self._dialler.connection() as connection:
                session = _Session(connection.channel, self._topology.queue, inbox, self._patience)
                self._says_connected(True)
                try:
                    await self._consume(connection, session)
                except* _GivenBack as given_back:
                    failure = _first_of(given_back)
                finally:
                    await session.end()
        except* Lost as failures:
            failure = _first_of(failures)
        finally:
            if self.is_connected:
                LOG.info("receiving_interrupted", extra={"reason": str(failure)})
            self._says_connected(False)
        return self._patience.seconds_after(failure)

    def _says_connected(self, connected: bool) -> None:
        self.is_connected = connected
        BROKER_CONNECTED.labels("consume").set(connected)

    async def _consume(self, connection: Connection, session: "_Session") -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.fail_when_lost())
            tasks.create_task(session.send_acknowledgements())
            tasks.create_task(self._fail_when_stuck(session))
            tasks.create_task(self._set_poison_aside(session))
            await session.begin(self._prefetch)
            # Wait here, not in the group's exit: a group of Python 3.11 that is failed by a task while it exits leaves
            # its owner marked as cancelled for good.
            await session.fail_when_over()

    async def _fail_when_stuck(self, session: "_Session") -> Never:
        """Brokers have been seen to forget a consumer without telling it: look, when nothing came for long."""
        while True:
            came = session.came
            await asyncio.sleep(self._quiet_seconds)
            if session.came == came and session.unacknowledged < self._prefetch:
                with in_our_words():
                    queue = await session.channel.queue_declare(
                        self._topology.queue, passive=True, timeout=_ANSWER_SECONDS
                    )
                if queue.message_count and session.came == came:
                    raise Lost("Messages wait in the queue, and none is delivered.")

    async def _set_poison_aside(self, session: "_Session") -> Never:
        patience = Patience()
        while True:
            await session.poison_came.wait()
            try:
                async with self._dead_letters.connection() as connection:
                    while session.poison:
                        await self._set_aside(connection.channel, session.poison[0])
                        patience.succeeded()
                        session.was_set_aside(session.poison.popleft())
                    session.poison_came.clear()
            except Lost as failure:
                # Perhaps it is there, perhaps not: it stays unacknowledged and first in line.
                LOG.warning("dead_letter_delayed", extra={"reason": str(failure)})
                await asyncio.sleep(patience.seconds_after(failure))

    async def _set_aside(self, channel: AbstractChannel, poison: "_Poison") -> None:
        with in_our_words():
            answer = await channel.basic_publish(
                poison.body,
                routing_key=self._topology.dead_queue,
                properties=poison.as_dead_letter(),
                mandatory=True,
                timeout=_ANSWER_SECONDS,
            )
        if not isinstance(answer, Basic.Ack):
            raise NotTaken("The dead letter was not confirmed.")
        DEAD_LETTERS.inc()
        LOG.warning("dead_letter", extra={"reason": poison.reason})


@dataclass(frozen=True, slots=True)
class AmqpDelivery:
    """The events of one message. When its connection is gone it can still be counted, and no longer acknowledged."""

    events: Sequence[AccessEvent]
    progress: Progress | None
    arrival: Arrival | None
    _session: "_Session"
    _tag: int

    def acknowledge(self) -> None:
        self._session.acknowledge(self._tag)

    def give_back(self) -> None:
        self._session.give_back()


class _Headers(msgspec.Struct, frozen=True):
    """What our own publisher says of a message, besides its events."""

    epoch: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
    highest_seq: Annotated[int, msgspec.Meta(ge=-1, lt=2**48)]
    last_of_epoch: bool
    host: Annotated[str, msgspec.Meta(pattern=r"\A[\x21-\x7e]{1,253}\Z")] = "unknown"


def _progress(headers: Mapping[str, object]) -> Progress | None:
    try:
        told = msgspec.convert(dict(headers), _Headers)
    except msgspec.ValidationError:
        return None
    return Progress(told.epoch, told.host, told.highest_seq, told.last_of_epoch)


@dataclass(frozen=True, slots=True)
class _Poison:
    tag: int
    body: bytes
    properties: Basic.Properties
    reason: str

    def as_dead_letter(self) -> Basic.Properties:
        """With all that was said of it, if the driver can say it again: it reads headers that it cannot write."""
        dead_letter = Basic.Properties(
            content_type=self.properties.content_type,
            message_id=self.properties.message_id,
            delivery_mode=2,
            timestamp=datetime.now(UTC),
            headers={**(self.properties.headers or {}), "reason": self.reason},
        )
        try:
            dead_letter.marshal()
        except Exception:  # whatever a stranger put there: it must not keep the letter from being written
            dead_letter.headers = {"reason": self.reason}
        return dead_letter


class _GivenBack(Lost):
    """Whoever counts cannot. To ask again at once would only move messages to and fro."""

    first_pause_seconds = 0.25
    longest_pause_seconds = 30.0


class Prefix:
    """The longest run from the first delivery on in which every one is acknowledged.

    Only that may be told to the broker: its "acknowledge up to here" takes in all that lies between.
    """

    def __init__(self) -> None:
        self.end = 0  # the number of its last delivery; they count from 1
        self._beyond: set[int] = set()

    def add(self, tag: int) -> bool:
        """Whether the run has grown."""
        if tag <= self.end or tag in self._beyond:
            return False
        self._beyond.add(tag)
        end_before = self.end
        while self.end + 1 in self._beyond:
            self.end += 1
            self._beyond.remove(self.end)
        return self.end > end_before

    def __len__(self) -> int:
        """How many are acknowledged, those behind a gap included."""
        return self.end + len(self._beyond)


class _Session:
    """What came over one connection, and how far it is acknowledged.

    A dead letter that is not safe yet stays with the broker, and holds up nobody: the deliveries behind it are then
    acknowledged one by one. Were they not, a broker that takes no dead letter for want of memory would never get any.
    """

    def __init__(self, channel: AbstractChannel, queue: str, inbox: "_Inbox", patience: Patience) -> None:
        self.channel = channel
        self._queue = queue
        self.came = 0
        self.poison: deque[_Poison] = deque()
        self.poison_came = asyncio.Event()
        self._inbox = inbox
        self._patience = patience
        self._acknowledged = Prefix()  # passes over what is poison
        self._told = 0
        self._kept_back: set[int] = set()  # poison that is no safe dead letter yet
        self._kept_elsewhere: deque[int] = deque()  # poison that is one now, and still to be acknowledged
        self._to_tell = asyncio.Event()
        self._over: asyncio.Future[Never] = asyncio.get_running_loop().create_future()

    async def begin(self, prefetch: int) -> None:
        self.channel.on_consumer_cancel_callbacks.add(
            lambda _: self._end_with(Lost("The broker ended the deliveries."))
        )
        with in_our_words():
            await self.channel.basic_qos(prefetch_count=prefetch, timeout=_ANSWER_SECONDS)
            await self.channel.basic_consume(self._queue, self._arrived, timeout=_ANSWER_SECONDS)

    async def _arrived(self, message: DeliveredMessage) -> None:
        """The driver starts a task for each message, in their order, which stays as long as nothing waits here."""
        assert isinstance(message.delivery, Basic.Deliver)
        self.came += 1
        self._inbox.put(self, message)

    @property
    def unacknowledged(self) -> int:
        return self.came - len(self._acknowledged) + len(self._kept_back)

    def read(self, message: DeliveredMessage) -> AmqpDelivery | None:
        """The message's events; None when it is none, and will be set aside."""
        assert isinstance(message.delivery, Basic.Deliver)
        tag = message.delivery.delivery_tag
        assert tag is not None
        try:
            events = decode(message.body)
        except NotAnEvent as error:
            self.poison.append(_Poison(tag, message.body, message.header.properties, str(error)))
            self.poison_came.set()
            self._kept_back.add(tag)
            self._acknowledged.add(tag)
            self._to_tell.set()
            return None
        headers = message.header.properties.headers
        return AmqpDelivery(events, _progress(headers or {}), arrived(self._queue, headers, message.body), self, tag)

    def acknowledge(self, tag: int) -> None:
        if not self._over.done() and self._acknowledged.add(tag):
            self._patience.succeeded()
            self._to_tell.set()

    def was_set_aside(self, poison: _Poison) -> None:
        self._patience.succeeded()
        self._kept_elsewhere.append(poison.tag)
        self._to_tell.set()

    def give_back(self) -> None:
        self._end_with(_GivenBack("Deliveries were given back."))

    def _end_with(self, failure: Lost) -> None:
        if not self._over.done():
            self._over.set_exception(failure)

    async def fail_when_over(self) -> Never:
        await asyncio.wait([self._over])
        self._over.result()

    async def send_acknowledgements(self) -> Never:
        """One frame tells all that was acknowledged in a turn of the loop, or while the last one was sent."""
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            with in_our_words():
                await self._tell()

    async def _tell(self) -> None:
        while self._kept_elsewhere:
            tag = self._kept_elsewhere.popleft()
            if tag <= self._told:  # it was passed over
                await self.channel.basic_ack(tag)
            self._kept_back.remove(tag)
        while self._kept_back and self._told < self._acknowledged.end:
            self._told += 1
            if self._told not in self._kept_back:
                await self.channel.basic_ack(self._told)
        if self._told < (end := self._acknowledged.end):
            self._told = end
            await self.channel.basic_ack(end, multiple=True)

    async def end(self) -> None:
        """The last acknowledgements go out if they can; from now on none does, and what is not read yet is dropped."""
        self._end_with(Lost("The deliveries ended."))
        self._over.exception()
        self._inbox.forget(self)
        telling = asyncio.create_task(self._tell())
        telling.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([telling], timeout=_GOODBYE_SECONDS)
        telling.cancel()


class _Inbox:
    """Messages that came and were not taken yet."""

    def __init__(self) -> None:
        self._messages: deque[tuple[_Session, DeliveredMessage]] = deque()
        self._came = asyncio.Event()
        self._end: asyncio.Task[None] | None = None

    def put(self, session: _Session, message: DeliveredMessage) -> None:
        self._messages.append((session, message))
        self._came.set()

    def forget(self, session: _Session) -> None:
        self._messages = deque(waiting for waiting in self._messages if waiting[0] is not session)

    def ended(self, receiving: asyncio.Task[None]) -> None:
        self._end = receiving
        self._came.set()

    def __aiter__(self) -> "_Inbox":
        return self

    async def __anext__(self) -> AmqpDelivery:
        while True:
            while not self._messages:
                if self._end is not None:
                    self._stop(self._end)
                self._came.clear()
                await self._came.wait()
            session, message = self._messages.popleft()
            if delivery := session.read(message):
                return delivery

    def _stop(self, end: asyncio.Task[None]) -> Never:
        if not end.cancelled() and (error := end.exception()):
            raise ChannelUnavailable("Receiving ended unexpectedly.") from error
        raise StopAsyncIteration


def _first_of(failures: BaseExceptionGroup[Lost]) -> Lost:
    return next(failure for failure in failures.exceptions if isinstance(failure, Lost))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
