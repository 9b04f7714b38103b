"""Frames of events in a file: how one is written, and how it is read again whatever became of the file.

frame    magic, CRC-32 of all that follows, length, count, first_seq, written_ms, payload
payload  the events as JSON objects, joined by commas
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from isal.isal_zlib import crc32

FAMILY = b"USF"
MAGIC = FAMILY + b"1"  # another number: another layout
_HEADER = struct.Struct("<4sI")
_REST = struct.Struct("<IIQQ")
_OVERHEAD_BYTES = _HEADER.size + _REST.size
_LARGEST_PAYLOAD_BYTES = 16 * 1024 * 1024
MOST_EVENTS = 256  # of a frame that is written: what the publisher puts into one message
MOST_BYTES = 256 * 1024  # and where visitors say much: the broker has a thousand out with each who counts
_USUAL_EVENT_BYTES = 512


class Frame(msgspec.Struct, frozen=True, gc=False):
    """Consecutive events that were written at once. One is made in each turn of the loop: so it has to be quick."""

    first_seq: int
    count: int
    written_ms: int  # since 1970
    payload: bytes

    @property
    def size(self) -> int:
        return _OVERHEAD_BYTES + len(self.payload)

    @property
    def next_seq(self) -> int:
        return self.first_seq + self.count

    def packed(self) -> bytes:
        rest = _REST.pack(len(self.payload), self.count, self.first_seq, self.written_ms)
        return b"".join((_HEADER.pack(MAGIC, crc32(self.payload, crc32(rest))), rest, self.payload))


def framed(events: list[bytes], seq: int, written_ms: int) -> list[Frame]:
    """These events, the first of which has this number."""
    frames = []
    for start in range(0, len(events), MOST_EVENTS):
        for count, payload in _halved(events[start : start + MOST_EVENTS]):
            frames.append(Frame(seq, count, written_ms, payload))
            seq += count
    return frames


def _halved(events: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """So many events, and they, joined: in halves, until each is small enough."""
    payload = b",".join(events)
    if len(events) == 1 or len(payload) <= MOST_BYTES:
        yield len(events), payload
    else:
        half = len(events) // 2
        yield from _halved(events[:half])
        yield from _halved(events[half:])


@dataclass(frozen=True, slots=True)
class Reading:
    """What stands in a segment from some offset to `end`: frames whose events are consecutive, or else damage."""

    frames: list[Frame]
    end: int
    damaged: bytes = b""


class Segment:
    """One file of frames. `end` is where the last good write ended: nothing behind it is read."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"{number:020d}.frames"
        self.number = number
        self.end = 0
        self._file: int | None = None

    @classmethod
    def created(cls, folder: Path, number: int) -> "Segment":
        segment = cls(folder, number)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        segment._file = os.open(segment.path, flags, 0o600)
        return segment

    @classmethod
    def found(cls, path: Path) -> "Segment":
        """Raises ValueError for a file that is none, OSError for one that cannot be read."""
        segment = cls(path.parent, int(path.stem))
        segment.end = path.stat().st_size
        return segment

    def append(self, data: bytes) -> None:
        """Write all of it, or raise OSError and leave the file as it was, or with damage that readers skip."""
        assert self._file is not None, "only a segment that this process created is written to"
        try:
            written = os.write(self._file, data)
            while written < len(data):  # a full disk takes a part first, and then says so
                written += os.write(self._file, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.end)
            self.end = os.fstat(self._file).st_size  # what could not be cut must be stepped over: appends go behind it
            raise
        self.end += len(data)

    def read(self, offset: int, most: int) -> Reading:
        """Frames of at most `most` events; the first may have more."""
        frames: list[Frame] = []
        events = 0
        start, data = offset, self._bytes(offset, most * _USUAL_EVENT_BYTES)
        while offset < self.end:
            wanted = _size_of(data, offset - start)
            if wanted and offset + wanted <= self.end and offset + wanted > start + len(data) and not frames:
                start, data = offset, self._bytes(offset, wanted)
            frame = parsed(data, offset - start)
            if frame is None:
                break
            if frames and (events + frame.count > most or frame.first_seq != frames[-1].next_seq):
                break
            frames.append(frame)
            events += frame.count
            offset += frame.size
        if frames or offset >= self.end:
            return Reading(frames, offset)
        rest = self._bytes(offset, self.end - offset)
        length = _next_frame(rest)
        return Reading([], offset + length, rest[:length])

    def _bytes(self, offset: int, most: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._file, min(most + _OVERHEAD_BYTES, self.end - offset), offset)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def delete(self) -> None:
        """A file that cannot be deleted now is behind the cursor, and goes with the next adoption."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _size_of(data: bytes, offset: int) -> int:
    """Of the frame that begins there, as it says itself; 0 where none begins."""
    if data[offset : offset + len(MAGIC)] != MAGIC or len(data) - offset < _OVERHEAD_BYTES:
        return _OVERHEAD_BYTES if MAGIC.startswith(data[offset : offset + len(MAGIC)]) else 0
    length: int = _REST.unpack_from(data, offset + _HEADER.size)[0]
    return _OVERHEAD_BYTES + length if length <= _LARGEST_PAYLOAD_BYTES else 0


def parsed(data: bytes, offset: int) -> Frame | None:
    """The frame that stands there whole and undamaged."""
    size = _size_of(data, offset)
    if size <= _OVERHEAD_BYTES or offset + size > len(data):
        return None
    crc = _HEADER.unpack_from(data, offset)[1]
    _length, count, first_seq, written_ms = _REST.unpack_from(data, offset + _HEADER.size)
    payload = data[offset + _OVERHEAD_BYTES : offset + size]
    if crc32(payload, crc32(data[offset + _HEADER.size : offset + _OVERHEAD_BYTES])) != crc or not count:
        return None
    return Frame(first_seq, count, written_ms, payload)


def _next_frame(data: bytes) -> int:
    """How many damaged bytes stand before the next whole frame; all of them, if there is none."""
    offset = data.find(MAGIC, 1)
    while offset > 0 and parsed(data, offset) is None:
        offset = data.find(MAGIC, offset + 1)
    return offset if offset > 0 else len(data)
