"""How events leave one service and reach the other: the promises of both ends.

The writing end is always the spool (events/spool.py): a redirect is answered once its event is in a file. What
takes it from there depends on the address:

    in-process://   the counting side reads the spool itself (events/in_process.py)
    amqp://…        a publisher sends the spool to RabbitMQ, a source receives from there (events/amqp.py)
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from urlshortener.events.event import AccessEvent, Progress
from urlshortener.events.traces import Arrival


class Delivery(Protocol):
    """Some events to be counted. Until acknowledged they are kept, and delivered again after any failure."""

    @property
    def events(self) -> Sequence[AccessEvent]: ...

    @property
    def progress(self) -> Progress | None:
        """How far the events' epoch had come; None where a foreign publisher does not tell."""
        ...

    @property
    def arrival(self) -> Arrival | None:
        """What is told of their way, where some of them are traced."""
        ...

    def acknowledge(self) -> None:
        """They are counted, durably: never deliver them again. Best effort, never raises, never blocks."""
        ...

    def give_back(self) -> None:
        """They could not be counted: deliver them again later, to whoever comes. Never raises, never blocks."""
        ...


class EventSource(Protocol):
    """The receiving end. tests/events/test_event_source.py holds every source to these sentences."""

    def deliveries(self) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Deliveries, until cancelled; reconnects by itself. Leaving gives back all that was not acknowledged.

        What cannot be read as an event is set aside with the reason (dead letters) and blocks nothing. The number of
        events that are out and not acknowledged is bounded.
        """
        ...

    @property
    def is_connected(self) -> bool: ...

    async def close(self) -> None: ...
