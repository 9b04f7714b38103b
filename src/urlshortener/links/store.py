"""Where links are kept: the promises, and the one place that picks a back end by its address."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from urlshortener.errors import Refused
from urlshortener.links.link import Change, Draft, Link


@dataclass(frozen=True, slots=True)
class PageMark:
    """Where a page of links ended: the next one begins with the first link older than this."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Found:
    """A link as some database had it."""

    link: Link
    is_current: bool
    """Whether it has every change that listeners had been told of when it was read. A replica may be behind."""


class LinkStore(Protocol):
    """Links in a database. tests/links/test_link_store.py holds every store to these sentences.

    Every call ends within a few seconds. A database that cannot be reached is StoreUnavailable: nothing was
    done. A write whose commit may or may not have happened is OutcomeUnknown: the caller repeats it with the
    same Draft, as often as it likes, and gets the same link.
    """

    @property
    def has_replica(self) -> bool:
        """Whether it pays to ask `find_many_on_replica` first."""
        ...

    async def add_many(self, drafts: Sequence[Draft]) -> list[Link | Refused]:
        """Keep new links in one transaction; answer for each draft, in their order.

        One draft's refusal (CodeTaken, KeyReused, NotToCome for one that is over, or whatever else no database would
        keep) never fails another. A draft with an idempotency key that was used within 30 days gives the link of then
        as it is now (deleted ones too), or KeyReused for another body; only a success uses a key up. Two drafts of one
        batch with one key or one code are as if they had come one after the other. A drawn code that is taken is drawn
        again. An answer is durable on the primary and, where the database replicates synchronously, on a standby: a
        repeated draft writes again, so that this holds for it too.
        """
        ...

    async def find_many(self, codes: Collection[str]) -> Mapping[str, Link]:
        """The links with these codes, deleted ones too, as the primary has them. Absent: there never was one.

        A row whose target must not stand in a Location header is logged, and is as absent here and everywhere.
        """
        ...

    async def find_many_on_replica(self, codes: Collection[str]) -> Mapping[str, Found]:
        """The same from a replica if there is one, else from the primary. Absent proves nothing."""
        ...

    async def change(self, code: str, change: Change, now: datetime) -> Link | None:
        """Change a link that is not deleted, and tell every listener; None if there is no such link."""
        ...

    async def delete(self, code: str, now: datetime) -> bool:
        """Mark a link deleted and tell every listener; False if there is none that is not deleted already."""
        ...

    async def page(self, limit: int, after: PageMark | None = None) -> list[Link]:
        """Links that are not deleted, newest first, as the primary has them; costs the same at any depth."""
        ...

    async def forget_old_keys(self, over_before: datetime, limit: int) -> int:
        """Forget idempotency keys whose 30 days were over by then, so many at most; return how many it were.

        Several replicas may do so at once: none waits for another, and a key that has just been used again stays.
        """
        ...

    async def listen(self, listener: "ChangeListener") -> None:
        """Tell the listener of changes and deletions by anyone, until cancelled; reconnects by itself."""
        ...

    async def ping(self) -> None:
        """Return if the primary answers now; raise StoreUnavailable if not."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ChangeListener:
    """Who wants to hear of changed links. None of these may block.

    Between `connected` and the next `lost`, every change that is committed leads to `changed` within one second.
    `connected` is given the codes that were changed since the last `lost`, and perhaps others; None if that is not
    known, as it is at first.
    """

    connected: Callable[[Collection[str] | None], None]
    lost: Callable[[float], None]  # for how many seconds nothing had been heard
    changed: Callable[[str], None]  # the code
