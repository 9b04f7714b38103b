"""Once each, in SQLite: which events were counted, and which requests of visitors."""

import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from urlshortener.events.event import EventId
from urlshortener.stats.access import REQUEST_BYTES, Access, RequestMemory
from urlshortener.stats.progress import Advance, Course, Stretch, is_kept


def fresh_of(connection: sqlite3.Connection, accesses: Sequence[Access], now_us: int) -> list[Access]:
    """Those that were not counted before, in no order; from now on they are."""
    return [
        *_fresh_by_number(connection, accesses, now_us),
        *_fresh_by_foreign_id(connection, accesses, now_us),
    ]


_BLOCK_BITS = 4096  # a short row for each write, and 25 bytes for each 4,096 events that are done with
_FULL = b"\xff" * (_BLOCK_BITS // 8)


def _fresh_by_number(connection: sqlite3.Connection, accesses: Sequence[Access], now_us: int) -> list[Access]:
    """Those with an EventId whose bit is not set, which this sets."""
    blocks: dict[tuple[str, int], list[tuple[int, Access]]] = {}
    for access in accesses:
        if isinstance(access.id, EventId):
            block, bit = divmod(access.id.seq, _BLOCK_BITS)
            blocks.setdefault((access.id.epoch, block), []).append((bit, access))
    epoch_ids = {epoch: _epoch_id(connection, epoch, now_us) for epoch in {epoch for epoch, _ in blocks}}
    fresh: list[Access] = []
    for (epoch, block), numbered in blocks.items():
        fresh += _fresh_of_block(connection, epoch_ids[epoch], block, numbered)
    return fresh


def _epoch_id(connection: sqlite3.Connection, epoch: str, now_us: int) -> int:
    connection.execute(
        "INSERT INTO epochs (epoch, last_us) VALUES (?, ?)"
        " ON CONFLICT (epoch) DO UPDATE SET last_us = excluded.last_us",
        (epoch, now_us),
    )
    (epoch_id,) = connection.execute("SELECT id FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
    return int(epoch_id)


def _fresh_of_block(
    connection: sqlite3.Connection, epoch_id: int, block: int, numbered: Sequence[tuple[int, Access]]
) -> list[Access]:
    row = connection.execute("SELECT bits FROM blocks WHERE epoch_id = ? AND block = ?", (epoch_id, block)).fetchone()
    if row == (None,):
        return []
    bits = bytearray(row[0] if row else len(_FULL))
    fresh = []
    for bit, access in numbered:
        byte, mask = bit >> 3, 1 << (bit & 7)
        if not bits[byte] & mask:
            bits[byte] |= mask
            fresh.append(access)
    if fresh:
        kept = None if bits == _FULL else bytes(bits)
        connection.execute("REPLACE INTO blocks (epoch_id, block, bits) VALUES (?, ?, ?)", (epoch_id, block, kept))
    return fresh


def _fresh_by_foreign_id(connection: sqlite3.Connection, accesses: Sequence[Access], now_us: int) -> list[Access]:
    """Those with a publisher's own id that is not remembered, which this remembers."""
    foreign = {access.id: access for access in accesses if isinstance(access.id, str)}
    if not foreign:
        return []
    known = connection.execute(
        "SELECT id FROM foreign_ids WHERE id IN (SELECT value FROM json_each(?))", (as_json(list(foreign)),)
    )
    for (known_id,) in known.fetchall():
        del foreign[known_id]
    connection.execute(
        "INSERT OR IGNORE INTO foreign_ids SELECT value, ? FROM json_each(?)", (now_us, as_json(list(foreign)))
    )
    return list(foreign.values())


def as_json(values: list[Any]) -> str:
    return msgspec.json.encode(values).decode()


# ---- how far epochs have come

PROGRESS_TABLE = "CREATE TABLE progress (epoch TEXT PRIMARY KEY, course BLOB NOT NULL) WITHOUT ROWID"


def courses_of(connection: sqlite3.Connection) -> dict[str, Course]:
    return {
        epoch: Course.unpacked(packed) for epoch, packed in connection.execute("SELECT epoch, course FROM progress")
    }


def note_progress(connection: sqlite3.Connection, advanced: Sequence[Advance], now: int) -> None:
    for advance in advanced:
        row = connection.execute("SELECT course FROM progress WHERE epoch = ?", (advance.epoch,)).fetchone()
        course = Course.unpacked(row[0]) if row else Course(advance.host)
        _keep(connection, advance.epoch, course.after(advance, now))


def _keep(connection: sqlite3.Connection, epoch: str, course: Course) -> None:
    connection.execute("REPLACE INTO progress (epoch, course) VALUES (?, ?)", (epoch, course.packed()))


def note_done(connection: sqlite3.Connection, done: Mapping[str, int], now: int) -> None:
    """Forget what is complete, and epochs that are over with that, or too old."""
    for epoch, course in courses_of(connection).items():
        left = course.done(done[epoch]) if epoch in done else course
        if left is None or not is_kept(course, now):
            connection.execute("DELETE FROM progress WHERE epoch = ?", (epoch,))
        elif left != course:
            _keep(connection, epoch, left)


def counted(connection: sqlite3.Connection, stretches: Sequence[Stretch]) -> list[int]:
    return [_counted(connection, stretch) for stretch in stretches]


def _counted(connection: sqlite3.Connection, stretch: Stretch) -> int:
    blocks = connection.execute(
        "SELECT block, bits FROM blocks JOIN epochs ON id = epoch_id WHERE epoch = ? AND block BETWEEN ? AND ?",
        (stretch.epoch, stretch.first // _BLOCK_BITS, stretch.last // _BLOCK_BITS),
    )
    return sum(_counted_of_block(block * _BLOCK_BITS, bits or _FULL, stretch) for block, bits in blocks)


def _counted_of_block(began: int, bits: bytes, stretch: Stretch) -> int:
    low, high = max(stretch.first - began, 0), min(stretch.last - began, _BLOCK_BITS - 1)
    wanted = int.from_bytes(bits, "little") >> low & (1 << high - low + 1) - 1  # bit n is bit n & 7 of byte n >> 3
    return wanted.bit_count()


# ---- requests that a proxy tried twice

# A row for each batch, because random ids in an index would dirty a page each.
REQUESTS_TABLE = "CREATE TABLE requests (counted_us INTEGER NOT NULL, ids BLOB NOT NULL)"


@dataclass(frozen=True, slots=True)
class FirstTries:
    """Those of some accesses that are no second try of a proxy, and the requests that will be remembered of them."""

    tries: Sequence[Access]
    requests: Sequence[bytes]
    unremembered: int

    def write(self, connection: sqlite3.Connection, now_us: int) -> None:
        if self.requests:
            connection.execute("INSERT INTO requests VALUES (?, ?)", (now_us, b"".join(self.requests)))


class Requests:
    """The requests that were counted within the window: looked up in memory, and found in the file by the next start.

    Used by the writing thread only. What a transaction wrote is known here once it is committed.
    """

    def __init__(self, memory: RequestMemory, connection: sqlite3.Connection, now_us: int) -> None:
        self._memory = memory
        self._window_us = memory.seconds * 1_000_000
        self._known: set[bytes] = set()
        self._by_age: deque[tuple[int, Sequence[bytes]]] = deque()
        for counted_us, ids in connection.execute("SELECT counted_us, ids FROM requests ORDER BY rowid"):
            self._remember([ids[at : at + REQUEST_BYTES] for at in range(0, len(ids), REQUEST_BYTES)], counted_us)
        self._forget(now_us)

    def first_tries(self, fresh: Sequence[Access], now_us: int) -> FirstTries:
        self._forget(now_us)
        first: list[Access] = []
        requests: dict[bytes, None] = {}
        for access in fresh:
            request = access.request if self._window_us else None
            if request is None:
                first.append(access)
            elif request not in self._known and request not in requests:
                requests[request] = None
                first.append(access)
        has_room = len(self._known) + len(requests) <= self._memory.most
        return FirstTries(first, list(requests) if has_room else [], 0 if has_room else len(requests))

    def committed(self, first: FirstTries, now_us: int) -> None:
        if first.requests:
            self._remember(first.requests, now_us)

    def _remember(self, requests: Sequence[bytes], counted_us: int) -> None:
        self._known.update(requests)
        self._by_age.append((counted_us, requests))

    def _forget(self, now_us: int) -> None:
        while self._by_age and self._by_age[0][0] <= now_us - self._window_us:
            self._known.difference_update(self._by_age.popleft()[1])

    def forget(self, connection: sqlite3.Connection, now_us: int) -> None:
        """In the file too."""
        connection.execute("DELETE FROM requests WHERE counted_us <= ?", (now_us - self._window_us,))
