"""Access events on disk, from the moment before the visitor is answered until somebody else has them for good."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one epoch, as they stand in the spool."""

    epoch: str
    first_seq: int
    count: int
    body: bytes  # the events as JSON objects joined by commas: b"[" + body + b"]" is a message
    last_of_epoch: bool  # this epoch is closed and nothing follows


class Spool:
    """One process's events, in a folder of its own below `folder`, and those of dead processes that it adopts."""

    epoch: str

    def __init__(self, folder: Path, max_bytes: int) -> None: ...

    def append(
        self,
        code: str,
        at: datetime,
        user_agent: str | None,
        ip_address: str | None,
        referer: str | None,
        visitor: str | None,
    ) -> "asyncio.Future[None]":
        """Give the access the next number of the epoch; the future is done once it is in the file.

        All appends of one turn of the event loop are one frame and one write.
        """
        raise NotImplementedError

    async def take(self, most: int = 256) -> Batch:
        """The next events that were not taken yet, oldest epoch first; waits until there are some."""
        raise NotImplementedError

    def done(self, batch: Batch) -> None:
        """These are kept elsewhere, durably: they may go. In any order."""
        raise NotImplementedError

    def rewind(self) -> None:
        """Take again from the first that is not done."""
        raise NotImplementedError

    @property
    def unsent(self) -> int:
        """Events that are not done yet, adopted ones included."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the epoch. What is not done stays for whoever adopts it."""
        raise NotImplementedError
