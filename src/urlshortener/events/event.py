"""That a link was followed: the one message that crosses from one service to the other."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class EventId:
    """The identity of an event: the same on every redelivery, so that twice delivered is once counted.

    An epoch is one life of one writing process (never continued by the next, so no number is ever used
    twice); the sequence counts its events from 0.
    """

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """Someone followed a link: all that one service ever tells the other.

    `id` is the EventId, or the event_id of a foreign publisher that numbers nothing (then it is remembered
    for a day). The address is cut and the visitor hashed before an event is made.
    """

    id: EventId | str
    code: str
    at: datetime  # UTC
    user_agent: str | None = None
    ip_address: str | None = None
    referer: str | None = None
    visitor: str | None = None
