"""One epoch's folder: its lock, its segments, and how far they are done.

<epoch>/lock                  held (flock) as long as somebody writes or sends this epoch
<epoch>/<number>.frames       segments, oldest first
<epoch>/cursor                up to where all is done; may be old or missing: then events are sent again
"""

import contextlib
import fcntl
import os
import re
import struct
from collections import deque
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from isal.isal_zlib import crc32

from urlshortener.events.segment import FAMILY, MAGIC, Frame, Segment
from urlshortener.telemetry import LOG, SPOOL_TORN

EPOCH_NAME = re.compile(r"[0-9a-f]{12}-[A-Za-z0-9_-]{16}")  # when it began, and chance
_CURSOR = struct.Struct("<QQI")


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one epoch, as they stand in the spool."""

    epoch: str
    first_seq: int
    count: int
    body: bytes  # the events as JSON objects joined by commas: b"[" + body + b"]" is a message
    last_of_epoch: bool  # this epoch is closed and nothing follows
    highest_seq: int  # of the epoch, as far as it was known when this was taken


@dataclass(slots=True)
class _Taken:
    """Something that was read, and where the next begins."""

    first_seq: int
    count: int
    segment: Segment
    end: int
    written_ms: int
    done: bool = False


class Held(Exception):
    """Another process lives there."""


class OtherVersion(Exception):
    """Written by a version of this program whose frames this one does not know."""


class Epoch:
    """The events of one life of one writing process; given out in order, done in any."""

    def __init__(self, folder: Path, aside: Path) -> None:
        """Take the folder's lock; raise Held, or OSError if nothing can be read there."""
        self.name = folder.name
        self.is_closed = False  # nothing will be written any more
        self.highest_seq = -1  # of the events that were accepted, on whatever way they leave
        self._last_ms = 0  # when that was
        self._folder = folder
        self._aside = aside
        self._segments: deque[Segment] = deque()
        self._taken: deque[_Taken] = deque()
        self.bytes_on_disk = 0
        self._left_events = 0  # behind the cursor: exact in a life of ours, an estimate in an adopted one
        self._done_ahead = 0
        self._cursor = 0  # in the first segment
        self._reading: tuple[Segment, int] | None = None
        self._cursor_is_saved = True
        self._end_is_taken = False
        self._end_is_told = False
        self._lock = _locked(folder)
        try:
            self._cursor_file = os.open(folder / "cursor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            os.close(self._lock)
            raise

    @classmethod
    def adopted(cls, folder: Path, aside: Path) -> "Epoch":
        """The epoch of a dead process, ready to be sent under its own identities."""
        epoch = cls(folder, aside)
        try:
            epoch._recover()
        except BaseException:
            epoch.let_go()
            raise
        return epoch

    def _recover(self) -> None:
        self.is_closed = True
        self._segments.extend(Segment.found(path) for path in sorted(self._folder.glob("*.frames")))
        self.bytes_on_disk = sum(segment.end for segment in self._segments)
        for segment in self._segments:
            _check_layout(segment.path)
        number, offset = self._saved_cursor()
        while self._segments and self._segments[0].number < number:
            self._delete_first_segment()
        if self._segments and self._segments[0].number == number:
            self._cursor = min(offset, self._segments[0].end)
        self.rewind()
        newest = list(islice(filter(None, map(_newest_frame, reversed(self._segments))), 2))
        if newest:
            last = max(newest, key=lambda frame: frame.first_seq)
            self.accepted(last.next_seq - 1, last.written_ms)
        first = self._segments[0].read(self._cursor, 1).frames if self._segments else []
        self._left_events = self.highest_seq + 1 - first[0].first_seq if first else 0

    @property
    def bytes_left(self) -> int:
        return self.bytes_on_disk - self._cursor

    @property
    def unsent(self) -> int:
        """Events that are not done; in an adopted epoch an estimate, but never 0 before it is finished.

        The end of a closed epoch, where it is still to be told, is one more.
        """
        return max(self._left_events - self._done_ahead, int(self.is_closed and not self.is_finished))

    @property
    def oldest_ms(self) -> int | None:
        """When the first event that is not done was written; None also if the disk does not give it back."""
        if self._taken:
            return self._taken[0].written_ms
        with contextlib.suppress(OSError):
            frames = self._reading[0].read(self._reading[1], 1).frames if self._reading else []
            return frames[0].written_ms if frames else None
        return None

    @property
    def is_finished(self) -> bool:
        if not self.is_closed or self._taken or self._advance_to_unread():
            return False
        return self._end_is_told or self.highest_seq < 0

    def accepted(self, seq: int, ms: int) -> None:
        """The epoch has events up to this number."""
        self.highest_seq, self._last_ms = seq, ms

    def append(self, frames: list[Frame], segment_bytes: int) -> None:
        """In one write; raises OSError, and then none of them is kept."""
        if not self._segments or self._segments[-1].end >= segment_bytes:
            number = self._segments[-1].number + 1 if self._segments else 0
            self._segments.append(Segment.created(self._folder, number))
            self._drop_done_segments()
            if self._reading is None:
                self.rewind()
        segment = self._segments[-1]
        began = segment.end
        try:
            segment.append(b"".join([frame.packed() for frame in frames]))
        finally:
            self.bytes_on_disk += segment.end - began
        self._left_events += sum(frame.count for frame in frames)
        self._end_is_told = False

    def take(self, most: int, too_old_before_ms: int) -> Batch | None:
        """The next events that were not taken yet. What is damaged or too old is set aside on the way."""
        while self._advance_to_unread():
            assert self._reading is not None
            segment, offset = self._reading
            reading = segment.read(offset, most)
            if not reading.frames:
                self._set_aside(segment, offset, reading.damaged, "damaged")
                self._took(0, 0, segment, reading.end, 0, done=True)
                continue
            is_old = reading.frames[0].written_ms < too_old_before_ms
            frames = list(takewhile(lambda f: (f.written_ms < too_old_before_ms) is is_old, reading.frames))  # noqa: B023
            first, count = frames[0], sum(frame.count for frame in frames)
            end = offset + sum(frame.size for frame in frames)
            is_kept = is_old and self._set_aside(segment, offset, b"".join(f.packed() for f in frames), "old")
            self._took(first.first_seq, count, segment, end, first.written_ms, done=is_kept)
            if not is_old:
                self._end_is_taken = self.is_closed and not self._anything_follows()
                body = b",".join([frame.payload for frame in frames])
                return Batch(self.name, first.first_seq, count, body, self._end_is_taken, self.highest_seq)
        return self._farewell(too_old_before_ms)

    def _farewell(self, too_old_before_ms: int) -> Batch | None:
        """The end of the epoch alone, where its last events left before anybody knew that they were the last."""
        if not self.is_closed or self._end_is_taken or self._end_is_told or self.highest_seq < 0:
            return None
        if self._last_ms < too_old_before_ms:  # nobody remembers what came of it: all of it would look lost
            self._end_is_told = True
            return None
        self._end_is_taken = True
        return Batch(self.name, self.highest_seq + 1, 0, b"", last_of_epoch=True, highest_seq=self.highest_seq)

    def _took(self, first_seq: int, count: int, segment: Segment, end: int, written_ms: int, *, done: bool) -> None:
        self._taken.append(_Taken(first_seq, count, segment, end, written_ms))
        self._reading = segment, end
        if done:
            self._mark(self._taken[-1])

    def done(self, batch: Batch) -> None:
        """These may go. A batch that was taken before a rewind and grouped otherwise since is sent again instead."""
        if not batch.count:
            self._end_is_told = True
            return None
        for taken in self._taken:
            if taken.first_seq == batch.first_seq and taken.count == batch.count and not taken.done:
                self._end_is_told |= batch.last_of_epoch
                return self._mark(taken)
        return None

    def _mark(self, taken: _Taken) -> None:
        taken.done = True
        self._done_ahead += taken.count
        while self._taken and self._taken[0].done:
            first = self._taken.popleft()
            self._done_ahead -= first.count
            self._left_events -= first.count
            while self._segments[0] is not first.segment:
                self._delete_first_segment()
            self._cursor = first.end
            self._cursor_is_saved = False
        self._drop_done_segments()

    def _drop_done_segments(self) -> None:
        while len(self._segments) > 1 and self._cursor >= self._segments[0].end:
            gone = self._delete_first_segment()
            self._cursor = 0
            self._cursor_is_saved = False
            if self._reading is None or self._reading[0] is gone:
                self._reading = self._segments[0], 0

    def _delete_first_segment(self) -> Segment:
        segment = self._segments.popleft()
        self.bytes_on_disk -= segment.end
        segment.delete()
        return segment

    def rewind(self) -> None:
        self._taken.clear()
        self._done_ahead = 0
        self._end_is_taken = False
        self._reading = (self._segments[0], self._cursor) if self._segments else None

    def _advance_to_unread(self) -> bool:
        """Move on to the next segment where one is read through; False if all is read."""
        while self._reading is not None and self._reading[1] >= self._reading[0].end:
            following = self._after(self._reading[0])
            if following is None:
                return False
            self._reading = following, 0
        return self._reading is not None

    def _after(self, segment: Segment) -> Segment | None:
        if segment is self._segments[-1]:
            return None
        return self._segments[self._segments.index(segment) + 1]

    def _anything_follows(self) -> bool:
        at = self._reading
        while at is not None:
            segment, offset = at
            if offset >= segment.end:
                following = self._after(segment)
                at = (following, 0) if following else None
                continue
            reading = segment.read(offset, 1)
            if reading.frames:
                return True
            at = segment, reading.end
        return False

    def _set_aside(self, segment: Segment, offset: int, content: bytes, why: str) -> bool:
        """Whether it is kept there now. What is old and could not be is passed over, and stays in its segment."""
        path = self._aside / f"{self.name}-{segment.number}-{offset}.{why}"
        if path.exists():  # read once more after a rewind
            return True
        LOG.error("spool_set_aside", extra={"why": why, "bytes": len(content), "path": str(path)})
        if why == "damaged":
            SPOOL_TORN.inc()
        try:
            self._aside.mkdir(exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_bytes(content)
            unfinished.rename(path)
        except OSError:
            LOG.exception("spool_set_aside_failed")
            return False
        return True

    def _saved_cursor(self) -> tuple[int, int]:
        saved = os.pread(self._cursor_file, _CURSOR.size, 0)
        if len(saved) < _CURSOR.size:
            return 0, 0
        number, offset, crc = _CURSOR.unpack(saved)
        return (number, offset) if crc32(saved[:-4]) == crc else (0, 0)

    def save_cursor(self) -> None:
        """Losing it only sends events again: so a disk that does not take it is no reason to stop."""
        if self._cursor_is_saved or not self._segments:
            return
        saved = struct.pack("<QQ", self._segments[0].number, self._cursor)
        with contextlib.suppress(OSError):
            os.pwrite(self._cursor_file, saved + crc32(saved).to_bytes(4, "little"), 0)
            self._cursor_is_saved = True

    def close(self) -> None:
        """Nothing is written any more. What is not done stays for whoever adopts it; else the folder goes."""
        self.is_closed = True
        if self.is_finished:
            for segment in self._segments:
                segment.delete()
            with contextlib.suppress(OSError):  # then it is found empty by the next start, or holds what is not ours
                for name in ("cursor", "lock"):
                    (self._folder / name).unlink(missing_ok=True)
                self._folder.rmdir()
        else:
            self.save_cursor()
        self.let_go()

    def let_go(self) -> None:
        """Release the lock and leave the folder exactly as it is."""
        for segment in self._segments:
            segment.close()
        os.close(self._cursor_file)
        os.close(self._lock)


def _newest_frame(segment: Segment) -> Frame | None:
    """Not always the last: what had to wait in memory stands behind newer ones, perhaps in the next segment."""
    newest, offset = None, 0
    while offset < segment.end:
        reading = segment.read(offset, 4096)
        if reading.frames and (newest is None or reading.frames[-1].first_seq > newest.first_seq):
            newest = reading.frames[-1]
        offset = reading.end
    return newest


def _locked(folder: Path) -> int:
    path = folder / "lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink == 0:  # whoever held it has just removed the folder
            raise Held(folder.name)
    except BlockingIOError:
        os.close(lock)
        raise Held(folder.name) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def is_held(folder: Path) -> bool:
    """Whether a process has this epoch's lock. To look takes it for a moment: who wants it then tries again."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _check_layout(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC and len(magic) == len(MAGIC) and magic.startswith(FAMILY):
        raise OtherVersion(path.name)
