"""One connection to RabbitMQ at a time, to whichever of its hosts answers; made to be dropped, never to be mended.

The driver knows one address, and its "robust" classes wait without limit. Here the rule is simpler: a connection and
its one channel live until the first thing that is not as it should be, then both are dropped and the next host is
asked. What was under way is sent or delivered again, which the identity of an event makes harmless.
"""

import asyncio
import contextlib
import logging
import random
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Never
from urllib.parse import quote

import aiormq
from aiormq.abc import AbstractChannel
from aiormq.connection import TransportFactory
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from yarl import URL

from urlshortener.errors import ChannelUnavailable
from urlshortener.events.amqp_topology import Topology, declare
from urlshortener.telemetry import BROKER_CONNECTS, LOG

_CONNECT_SECONDS = 1.0
_LONGEST_CONNECT_SECONDS = 5.0
_DECLARE_SECONDS = 10.0  # a queue that is electing its leader answers late
_GOODBYE_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5  # the driver gives up a silent peer after three of them, 18 s
_UNACKNOWLEDGED_MILLISECONDS = 10_000  # TCP's own limit for a peer that vanished while something was sent to it

# What the driver reports ends up here as an exception of ours, and is logged once, by whoever lost the connection.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where RabbitMQ is: any of the hosts will do."""

    hosts: Sequence[tuple[str, int]]
    user: str
    password: str
    vhost: str

    def url(self, host: str, port: int, role: str) -> URL:
        user, password, vhost = (quote(part, safe="") for part in (self.user, self.password, self.vhost))
        bracketed = f"[{host}]" if ":" in host else host
        options = f"heartbeat={_HEARTBEAT_SECONDS}&name=url-shortener%20{role}"
        return URL(f"amqp://{user}:{password}@{bracketed}:{port}/{vhost}?{options}", encoded=True)


class Lost(ChannelUnavailable):
    """The connection is of no use any more. Whoever had it asks for another after a pause."""

    first_pause_seconds = 0.0  # a node that was killed has neighbours that wait for us
    longest_pause_seconds = 1.0


class NotTaken(Lost):
    """The broker is there, and does not take a message: no room, or nowhere to put it. It needs time, not haste."""

    first_pause_seconds = 0.25
    longest_pause_seconds = 5.0


class TopologyDiffers(Lost):
    """The broker has an exchange or a queue of that name, of another kind. Somebody has to decide which is right."""

    first_pause_seconds = 5.0
    longest_pause_seconds = 30.0

    def __init__(self, **difference: str) -> None:
        super().__init__("The broker's topology differs from ours.")
        self.difference = difference


class Patience:
    """How long to wait before the next attempt: longer each time, never in step with others."""

    def __init__(self) -> None:
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def seconds_after(self, failure: Lost) -> float:
        doublings, self._failures = self._failures, self._failures + 1
        if not doublings and not failure.first_pause_seconds:
            return 0.0
        grown = max(failure.first_pause_seconds, 0.05) * 2 ** min(doublings, 10)
        return float(min(grown, failure.longest_pause_seconds) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


@contextlib.contextmanager
def in_our_words() -> Iterator[None]:
    """Whatever the driver raises inside becomes a `Lost` of ours, and a cancellation is ours or none."""
    try:
        yield
    except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
        raise _translated(error) from error
    except asyncio.CancelledError:
        # The driver ends waits on a connection that closed with a cancellation that nobody asked for. Taken for a real
        # one it would end our task without a word.
        if _is_cancelled():
            raise
        raise Lost("The connection closed.") from None
    # The other way round: its calls wait with `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that
    # comes together with the answer. Whoever cancelled us would wait for ever.
    if _is_cancelled():
        raise asyncio.CancelledError


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


_DIFFERENCE = re.compile(r"inequivalent arg '(?P<what>[^']+)' for (?P<of>\w+ '[^']+')[^:]*: (?P<ours_and_theirs>.*)")


_REASONS: tuple[tuple[type[BaseException], type[Lost], str], ...] = (  # the first that fits
    (PublishError, NotTaken, "No queue is bound for the message."),
    (DeliveryError, NotTaken, "The queue takes no more."),
    (ProbableAuthenticationError, Lost, "The broker refuses the user or the password."),
    (AuthenticationError, Lost, "The broker refuses the user or the password."),
    (ConnectionNotAllowed, Lost, "The broker does not let this user into this virtual host."),
    (ChannelClosed, Lost, "The broker closed the channel."),
    (TimeoutError, Lost, "The broker did not answer in time."),
)


def _translated(error: BaseException) -> Lost:
    if isinstance(error, ChannelPreconditionFailed) and (found := _DIFFERENCE.search(str(error))):
        return TopologyDiffers(**found.groupdict())
    for theirs, ours, reason in _REASONS:
        if isinstance(error, theirs):
            return ours(reason)
    return Lost("The connection failed.")


class Connection:
    """A connection and its one channel, with the topology declared."""

    def __init__(self, driver: aiormq.Connection, channel: AbstractChannel, wire: "_Wire") -> None:
        self.channel = channel
        self._driver = driver
        self._wire = wire

    async def fail_when_lost(self) -> Never:
        """Wait for the end of the connection or of its channel, and raise it."""
        await asyncio.wait([self._driver.closing, self.channel.closing], return_when=asyncio.FIRST_COMPLETED)
        raise Lost("The connection closed.")

    async def unblocked(self) -> None:
        """Return when the broker takes messages: it says so when memory or disk run out, and when they are back."""
        await self._driver.ready()

    async def is_blocked(self) -> bool:
        try:
            async with asyncio.timeout(0.01):
                await self._driver.ready()
        except TimeoutError:
            return True
        return False

    def abort(self) -> None:
        """Drop it now, without a word: nothing that is still on its way counts."""
        self._wire.cut()

    async def close(self) -> None:
        await _close(self._driver, self._wire)


async def _close(driver: aiormq.Connection, wire: "_Wire") -> None:
    # In a task of its own: the driver's goodbye may hang, or end in a cancellation that is not ours.
    goodbye = asyncio.create_task(driver.close())
    goodbye.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait([goodbye], timeout=_GOODBYE_SECONDS)
    wire.cut()


class Dialler:
    """Finds a host that answers. The one that last did is asked first, unless it has just failed us."""

    def __init__(self, broker: Broker, topology: Topology, role: str) -> None:
        self._broker = broker
        self._topology = topology
        self._role = role
        self._hosts = deque(broker.hosts)
        self._limit_seconds = _CONNECT_SECONDS
        self._last_complaint = ""

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection to the first host that answers; Lost when none does. An error inside drops it."""
        connection = await self._dial()
        try:
            yield connection
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            self._hosts.rotate(-1)
            connection.abort()
            raise
        finally:
            await connection.close()

    async def _dial(self) -> Connection:
        failure = Lost("The broker has no hosts.")
        for _ in range(len(self._hosts)):
            host, port = self._hosts[0]
            try:
                connection = await self._connect(host, port)
            except Lost as error:
                failure = error
                self._complain(host, error)
                self._hosts.rotate(-1)
            else:
                LOG.info("broker_connected", extra={"role": self._role, "host": host, "port": port})
                BROKER_CONNECTS.labels(self._role).inc()
                self._limit_seconds, self._last_complaint = _CONNECT_SECONDS, ""
                return connection
        # A broker that is up and slow must not be kept away by a limit that it can never meet.
        self._limit_seconds = min(self._limit_seconds + 1.0, _LONGEST_CONNECT_SECONDS)
        raise failure

    async def _connect(self, host: str, port: int) -> Connection:
        wire = _Wire()
        driver = aiormq.Connection(self._broker.url(host, port, self._role), transport_factory=wire)
        try:
            with in_our_words():
                async with asyncio.timeout(self._limit_seconds):
                    await driver.connect()
                async with asyncio.timeout(_DECLARE_SECONDS):
                    channel = await driver.channel(publisher_confirms=True)
                    await declare(channel, self._topology)
        except BaseException:
            wire.cut()
            await _close(driver, wire)
            raise
        return Connection(driver, channel, wire)

    def _complain(self, host: str, failure: Lost) -> None:
        """Once for each new reason: an outage of an hour is not a log of an hour."""
        complaint = f"{host} {failure}"
        if complaint == self._last_complaint:
            return
        self._last_complaint = complaint
        where = {"role": self._role, "host": host}
        if isinstance(failure, TopologyDiffers):
            todo = "Drain and delete what the broker has, so that it is declared anew, or choose another name for it."
            LOG.error("broker_topology_differs", extra={**where, **failure.difference, "what_to_do": todo})
        else:
            LOG.warning("broker_away", extra={**where, "reason": str(failure)})


class _Wire(TransportFactory):
    """Opens the TCP connection for the driver, and keeps hold of it, so that it can be cut at once."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        self._transport = writer.transport
        peer: socket.socket = writer.get_extra_info("socket")
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MILLISECONDS)
        return reader, writer

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()
