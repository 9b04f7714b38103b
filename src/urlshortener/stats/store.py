"""Where accesses are counted: the promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from urlshortener.events.event import AccessEvent, Progress

DRIFT_AFTER = timedelta(seconds=60)  # what is known to exist and was not counted by then is missed


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch: each event was either counted now, or had been counted before, or is a retry: its request
    was counted as another event, because a proxy asked two shorteners."""

    counted: int
    duplicates: int
    retries: int = 0
    unremembered: int = 0  # of those counted now: there was no room to remember their requests, so a retry counts too
    replicated: bool = True  # False: counted, but a failover in the next moment may undo it: bring it again
    generation: int = 0  # of the store's process that counted it: should that be another one later, bring it again


@dataclass(frozen=True, slots=True)
class Drift:
    """Events that a shortener numbered in an hour, and that never came to be counted."""

    host: str
    epoch: str
    hour: datetime  # UTC, of the events around them
    missing: int


@dataclass(frozen=True, slots=True)
class LinkStats:
    """How often, when and by whom a link was followed."""

    code: str
    access_count: int  # everybody, bots included
    bots: int
    visitors: int  # sum of each UTC day's distinct visitors, error at most 2 %
    last_accessed_at: datetime | None


@dataclass(frozen=True, slots=True)
class StatsPage:
    items: Sequence[LinkStats]
    total: int  # of all counted codes


class StatsStore(Protocol):
    """Counts. tests/stats/test_stats_store.py holds every store to these sentences.

    Every call ends within a few seconds; a store that cannot be reached is StoreUnavailable.
    """

    @property
    def grace_seconds(self) -> float:
        """For so long a failover may undo what was recorded, also when it was replicated; 0: never."""
        ...

    @property
    def generation(self) -> int:
        """Grows when another process of the store answers: what an older one recorded may be undone."""
        ...

    async def record(self, batch: Sequence[AccessEvent], progress: Sequence[Progress] = ()) -> Recorded:
        """Count each event id once, however often it comes, in whatever order. Atomic: all of the batch, or nothing.

        StoreUnavailable leaves the outcome open: the caller brings the same events again.
        Epochs are remembered for 14 days after their last event, foreign event ids for 24 hours.
        With them, in the same step, is kept how far their epochs have come.
        Events of one code and one request id, seconds apart, are one access; an id is remembered for a window after it
        was counted. Which of them is counted is left to chance.
        """
        ...

    async def of(self, code: str) -> LinkStats | None:
        """None: never followed. Costs the same after ten years."""
        ...

    async def top(self, limit: int, offset: int) -> StatsPage:
        """Most followed first; equal ones by code."""
        ...

    async def quarters(self, code: str, start: datetime, end: datetime) -> Mapping[int, int]:
        """Accesses in [start, end) by quarter of an hour: number of the quarter since 1970 -> count; 0 is left out.

        A quarter is the finest that any time zone's hours and days need (+05:45). Kept for `retention`.
        """
        ...

    async def drift(self, older_than: timedelta = DRIFT_AFTER) -> Sequence[Drift]:
        """What is missing of what was known to exist so long ago: lost, or still on its way. Known for 13 days."""
        ...

    async def tidy(self, now: datetime) -> None:
        """Close days that are over, forget what is past its retention. Called every few minutes, by every replica."""
        ...

    async def ping(self) -> None:
        """Return if it takes writes now, from the process that `generation` tells; raise StoreUnavailable if not."""
        ...

    async def close(self) -> None: ...
