"""What is counted of an access event: who it is, which link, when, and by whom."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.bots import is_bot

QUARTER_SECONDS = 900
DAY_SECONDS = 86_400
VISITOR_BYTES = 8
REQUEST_BYTES = 8  # with two million of them remembered, one click in 10^13 is taken for another's retry

# How long a store remembers what it counted, and when a day's visitors become a number. Spools send nothing
# that is older than 7 days, so a day that ended 8 days ago has all its visitors, and 14 days of memory outlast
# every redelivery.
EPOCHS_KEPT = timedelta(days=14)
FOREIGN_IDS_KEPT = timedelta(hours=24)
DAYS_OPEN = timedelta(days=8)

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Access(NamedTuple):
    """One event as the stores count it: nothing is left that could say who it was."""

    id: EventId | str
    code: str
    at_us: int  # microseconds since 1970
    bot: bool
    visitor: bytes | None  # VISITOR_BYTES, equal for equal visitors of one day
    request: bytes | None  # REQUEST_BYTES, equal for equal requests of one code

    @property
    def quarter(self) -> int:
        """The number of the quarter of an hour since 1970."""
        return self.at_us // (QUARTER_SECONDS * 1_000_000)

    @property
    def day(self) -> int:
        """The number of the UTC day since 1970."""
        return self.at_us // (DAY_SECONDS * 1_000_000)


@dataclass(frozen=True, slots=True)
class RequestMemory:
    """How long, and how many, requests are remembered, so that a click that a proxy tried twice is counted once."""

    window: timedelta = timedelta(minutes=10)  # longer than a crash loop's pauses: a dead process' spool may come late
    most: int = 2_000_000  # within one window

    @property
    def seconds(self) -> int:
        return int(self.window.total_seconds())


def access_of(event: AccessEvent) -> Access:
    return Access(
        event.id,
        event.code,
        microseconds(event.at),
        is_bot(event.user_agent),
        None if event.visitor is None else hashed_visitor(event.visitor),
        request_of(event),
    )


def request_of(event: AccessEvent) -> bytes | None:
    if event.request_id is None:
        return None
    # Of the code too: whatever an edge sends, one request leads to one code, and never suppresses another's click.
    return blake2b(f"{event.code} {event.request_id}".encode(), digest_size=REQUEST_BYTES).digest()


def hashed_visitor(visitor: str) -> bytes:
    # Hashed again, because a foreign publisher's visitor may be any text of any length.
    return blake2b(visitor.encode("utf-8", "surrogatepass"), digest_size=VISITOR_BYTES).digest()


def microseconds(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - _1970) // _MICROSECOND


def instant(at_us: int) -> datetime:
    """The inverse of `microseconds`."""
    return _1970 + at_us * _MICROSECOND


def day_of(at: datetime) -> int:
    """The number of the UTC day since 1970."""
    return microseconds(at) // (DAY_SECONDS * 1_000_000)


def quarters_between(start: datetime, end: datetime) -> range:
    """The numbers of the quarters of an hour that begin in [start, end)."""
    return range(_first_quarter(start), _first_quarter(end))


def _first_quarter(at: datetime) -> int:
    """The first quarter that begins at that time or later."""
    return -(-microseconds(at) // (QUARTER_SECONDS * 1_000_000))
