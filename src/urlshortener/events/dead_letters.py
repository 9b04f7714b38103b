"""What could not be read as an event, waiting for a person: looked at, and sent on its way again.

In a queue of the broker it is `access_logs.dead` (events/amqp_dead_letters.py); where the counting side reads the spool
itself, a file beside it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from urlshortener.events.epoch import EPOCH_NAME, Epoch, Held
from urlshortener.events.event import EventId, NotAnEvent, decode
from urlshortener.events.segment import Frame

_SEGMENT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside, and why."""

    reason: str
    at: datetime | None  # None: the one who set it aside did not say
    body: bytes

    @property
    def is_an_event_now(self) -> bool:
        """A newer version may read what an older one could not; and what the broker gave up was one all the time."""
        try:
            return bool(decode(self.body))
        except NotAnEvent:
            return False


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a replay ended."""

    sent: int
    left: int  # of those that were looked at


class DeadLetters(Protocol):
    """Where they are kept. To look changes nothing; what is sent again is kept here until it is somewhere else."""

    async def first(self, most: int) -> Sequence[DeadLetter]: ...

    async def replay(self, most: int, *, all_of_them: bool, progress: Callable[[int], None]) -> Replayed:
        """Send those again that are events now, or all; `progress` is told how many are sent so far."""
        ...


class SpoolDeadLetters:
    """Those of `in-process://`: lines of JSON in a file of the spool's folder.

    Each goes back into a spool of its own epoch, as if its process had just died, and whoever looks around there adopts
    it. Where such a folder is still in use, its letters stay until that process is gone.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._file = folder / "dead-letters.jsonl"
        self._taken = folder / "dead-letters.replaying"
        self._clock = clock

    async def first(self, most: int) -> Sequence[DeadLetter]:
        lines = [*_lines(self._taken), *_lines(self._file)]
        return [_letter(line) for line in lines[:most]]

    async def replay(self, most: int, *, all_of_them: bool, progress: Callable[[int], None]) -> Replayed:
        """Nothing is an event only because it was asked for: here, `all_of_them` changes nothing."""
        if not self._taken.exists() and self._file.exists():
            self._file.rename(self._taken)  # what comes meanwhile begins a new file
        lines = list(_lines(self._taken))
        frames: dict[str, list[tuple[bytes, Frame]]] = {}
        for line in lines[:most]:
            if found := self._frame(_letter(line)):
                frames.setdefault(found[0], []).append((line, found[1]))
        sent: set[bytes] = set()
        for epoch, found_frames in frames.items():
            if self._is_spooled(epoch, [frame for _, frame in found_frames]):
                sent.update(line for line, _ in found_frames)
                progress(len(sent))
        left = [line for line in lines if line not in sent]
        if left:
            with self._file.open("ab") as file:
                file.writelines(line + b"\n" for line in left)
                file.flush()
                os.fsync(file.fileno())
        self._taken.unlink(missing_ok=True)
        return Replayed(len(sent), len(left))

    def _frame(self, letter: DeadLetter) -> tuple[str, Frame] | None:
        """The events of the letter under their own numbers, and the epoch that they belong to."""
        try:
            events = decode(letter.body)
        except NotAnEvent:
            return None
        first = events[0].id if events else ""
        if not isinstance(first, EventId) or not EPOCH_NAME.fullmatch(first.epoch):
            return None
        payload = letter.body.strip().removeprefix(b"[").removesuffix(b"]")
        return first.epoch, Frame(first.seq, len(events), int(self._clock() * 1000), payload)

    def _is_spooled(self, name: str, frames: list[Frame]) -> bool:
        try:
            (self._folder / name).mkdir()
            epoch = Epoch(self._folder / name, self._folder / "quarantine")
        except (FileExistsError, FileNotFoundError, Held):
            return False
        try:
            epoch.append(frames, _SEGMENT_BYTES)
        finally:
            epoch.let_go()
        return True


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        yield from path.read_bytes().splitlines()


def _letter(line: bytes) -> DeadLetter:
    try:
        words = json.loads(line)
        at = datetime.fromisoformat(words["at"]) if "at" in words else None
        return DeadLetter(str(words["reason"]), at and at.astimezone(UTC), str(words["body"]).encode())
    except (ValueError, KeyError, TypeError):
        return DeadLetter("the line itself cannot be read", None, line)
