"""What a link is."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Destination:
    """What following a link takes to know of it: all that is held in memory, of millions perhaps."""

    target: str
    expires_at: datetime | None = None
    is_over: bool = False  # disabled or deleted
    version: int = 1

    def is_live(self, now: datetime) -> bool:
        """Whether a visitor may go there at that time."""
        return not self.is_over and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Link:
    """A short code, and the long address it stands for.

    `version` grows by one with every change of the row, so that of two readings of one link the newer is known
    whatever order they arrive in. A deleted link keeps its row: its code is never given away again.
    """

    id: UUID
    code: str
    target: str  # pure printable ASCII, as links.target.normalised returns it
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    enabled: bool = True
    deleted_at: datetime | None = None
    version: int = 1

    @property
    def is_deleted(self) -> bool:
        return self.deleted_at is not None

    @property
    def destination(self) -> Destination:
        return Destination(self.target, self.expires_at, not self.enabled or self.is_deleted, self.version)


@dataclass(frozen=True, slots=True)
class Draft:
    """A link that somebody asks for: everything that is decided before the first attempt to keep it.

    The id and the code are drawn first and stay the same on every retry: so a commit whose outcome is
    unknown can be tried again, and cannot make a second link.
    """

    id: UUID
    code: str
    target: str
    created_at: datetime
    expires_at: datetime | None = None
    code_was_chosen: bool = False  # by the caller: then a collision is theirs to hear of; else another is drawn
    owner: str = ""  # whose idempotency keys these are; one owner until there are accounts
    key: str | None = None  # the Idempotency-Key
    body_digest: bytes = b""  # of the request's body: the same key with another digest is refused

    @property
    def is_over(self) -> bool:
        """Whether it is asked for after its own end: nobody gets that, but a link that its key made before."""
        return self.expires_at is not None and self.expires_at <= self.created_at


class Unchanged:
    """The type of UNCHANGED."""


UNCHANGED = Unchanged()


@dataclass(frozen=True, slots=True)
class Change:
    """What to change of a link; what is UNCHANGED stays."""

    target: str | Unchanged = UNCHANGED
    expires_at: datetime | Unchanged | None = UNCHANGED
    enabled: bool | Unchanged = UNCHANGED
