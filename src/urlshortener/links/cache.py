"""What is remembered of links, and for how long it is known to be true."""

import math
import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from urlshortener.links.link import Destination, Link

LIFE_SECONDS = 60.0  # of what a replica said, and of what was read while nobody would have told of a change
UNHEARD_SECONDS = 55.0  # of what was known before nobody told any more: noticing that takes a little too
MOST_DOUBTFUL = 5_000  # codes: expiring more at once would stop everything else for too long
MOST_CHANGED = 100_000  # codes that are looked up on the primary alone for so long after a change

# How long an entry is fresh, within the spell in which its reading began.
_NOT = 0
_A_MINUTE = 1
_ALL_OF_IT = 2

# spell, how long it is fresh, version, read at, expires at (microseconds since 1970), place in the ring; the target
_ENTRY = struct.Struct("<IBQdqI")
_unpack = _ENTRY.unpack_from
_TARGET = _ENTRY.size
_NEVER_EXPIRES = 2**63 - 1
_IS_OVER = -1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A question to a database that is under way. What changes meanwhile, it may have missed."""

    began_at: float
    spell: int
    was_listening: bool
    changed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A link as a reading had it."""

    destination: Destination
    spell: int  # in which the reading began
    fresh: int
    read_at: float
    last_true_at: float
    """Until when it is known to have been true: while changes would have been told of, it was."""


class Cache:
    """Links in memory, bounded by bytes; those that were not used for long go first.

    A remembered link is *fresh*, and may be followed without asking anyone, while both hold:

    * it was read in the present spell, and no notification has named the link since;
    * it came from the primary, or from a replica that was not behind, while the listener was connected; or it is
      younger than a minute.

    A spell is a stretch of time in which every change is heard of, if late. It outlasts the listener for a little less
    than a minute, and goes on when the listener is back by then with what changed meanwhile: so a failover costs no
    link its freshness. Else a new one begins, and all that was known is expired.

    One that is not fresh is *expired*. It is kept, because it is all there is to serve when no database answers.
    A reading that was under way when a notification came is void for that code, since nobody knows which of the two
    was first. Readings of the primary win; but where two cross, and for a replica's always, the higher version wins.

    **A link is one `bytes`** in a dictionary of bytes: fields packed, the target behind them. That takes a third of
    the memory of objects, and the garbage collector, which stops the process for as long as there are objects to look
    at, looks at none of them.

    Places form a ring. A hit marks its place; whoever needs room lets a hand go round, which takes the mark from the
    marked and drops the first without (CLOCK): nearly least recently used, for one write to a bytearray a hit.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: dict[bytes, bytes] = {}
        self._ring: list[bytes | None] = []  # the code at each place
        self._marks = bytearray()
        self._free: list[int] = []  # places without a code
        self._hand = 0
        self._readings: set[Reading] = set()
        self._changed = Recently(LIFE_SECONDS, MOST_CHANGED, clock)
        self._in_doubt: set[str] = set()
        self._spell = 0
        self._ended_at = array("d", [math.inf])  # of each spell
        self.is_listening = False
        self.bytes = 0  # estimated
        self.times_known = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Whether another link would push one out."""
        return self.bytes + _LARGEST_BYTES > self._max_bytes

    def live_target(self, code: bytes, now: int) -> bytes | None:
        """Where the link leads if it is fresh and live now, in microseconds. Nearly every redirect asks this alone."""
        entry = self._entries.get(code)
        if entry is None:
            return None
        spell, fresh, _, read_at, expires_at, place = _unpack(entry)
        if (
            spell != self._spell
            or now >= expires_at
            or (fresh != _ALL_OF_IT and not (fresh and self._clock() < read_at + LIFE_SECONDS))
        ):
            return None
        self._marks[place] = 1
        self.times_known += 1
        return entry[_TARGET:]

    def known(self, code: str) -> Destination | None:
        """What is remembered, if it is fresh."""
        held = self.held(code)
        if held is None or not self._is_fresh(held):
            return None
        self.times_known += 1
        return held.destination

    def held(self, code: str) -> Remembered | None:
        """What is remembered, fresh or expired."""
        entry = self._entries.get(code.encode())
        if entry is None:
            return None
        self._marks[_place(entry)] = 1
        return self._read(entry)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Wrap every question to a database in this, so that it hears of what changes meanwhile."""
        reading = Reading(self._clock(), self._spell, self.is_listening)
        self._readings.add(reading)
        try:
            yield reading
        finally:
            self._readings.discard(reading)

    def keep(self, link: Link, reading: Reading, *, from_primary: bool, is_current: bool = False) -> bool:
        """Remember what a reading brought. False: do not believe it, newer is known or on its way; read again.

        A replica that `is_current` had every change that was told of before. Of later ones we shall hear, or have.
        """
        if link.code in reading.changed:
            return False
        held = self._held(link.code)
        if held is not None and held.destination.version > link.version:
            crossed = held.read_at > reading.began_at
            if crossed or not from_primary:
                return False
        lasts = from_primary or (is_current and link.code not in self._changed)
        if held is None or lasts or not self._is_fresh(held):
            fresh = _ALL_OF_IT if lasts and reading.was_listening else _A_MINUTE
            self._put(link.code, link.destination, reading.spell, fresh, reading.began_at)
        return True

    def keep_own(self, link: Link, reading: Reading) -> None:
        """Remember a change that was made from here. If it may be outdated already, as expired."""
        is_void = link.code in reading.changed
        held = self._held(link.code)
        self.changed(link.code)
        if held is None or held.destination.version <= link.version:
            fresh = _NOT if is_void else _ALL_OF_IT if reading.was_listening else _A_MINUTE
            self._put(link.code, link.destination, reading.spell, fresh, reading.began_at)

    def keep_deletion(self, code: str) -> None:
        """Remember that a link was deleted from here; its row will tell the rest."""
        self.changed(code)
        if (held := self._held(code)) is not None:
            deleted = replace(held.destination, is_over=True, version=held.destination.version + 1)
            self._put(code, deleted, held.spell, held.fresh, held.read_at)

    def forget(self, code: str) -> None:
        self._drop(code.encode())

    def changed(self, code: str) -> None:
        """Somebody changed this link: what is held of it is expired, what is being read of it is void."""
        self._changed.add(code)
        for reading in self._readings:
            reading.changed.add(code)
        if (held := self._held(code)) is not None:
            self._put(code, held.destination, held.spell, _NOT, min(held.last_true_at, self._clock()))

    def changed_recently(self, code: str) -> bool:
        """Whether a replica may still be behind a change of this link."""
        return code in self._changed

    def connected(self, missed: Collection[str] | None) -> None:
        """From now on changes are told of. `missed` are those of the time since the loss; None: nobody knows them."""
        doubtful = self._in_doubt.union(missed or ())
        if missed is None or not self._is_waiting_for_the_missed or len(doubtful) > MOST_DOUBTFUL:
            self._begin_spell()
        else:
            for code in doubtful:
                self.changed(code)
            self._ended_at[self._spell] = math.inf
        self.is_listening = True

    def lost(self, unheard_seconds: float) -> None:
        """Changes may have been missed, for so long already."""
        if self.is_listening:
            self._ended_at[self._spell] = self._clock() - unheard_seconds
            self._in_doubt = set(self._changed)  # their primary may have died before any other had the change
            self.is_listening = False

    def give_up_listening(self) -> None:
        """The listener has been lost for UNHEARD_SECONDS: what was known before is expired."""
        if self._is_waiting_for_the_missed:
            self._begin_spell()

    @property
    def _is_waiting_for_the_missed(self) -> bool:
        return not math.isinf(self._ended_at[self._spell])

    def _begin_spell(self) -> None:
        self._ended_at[self._spell] = min(self._ended_at[self._spell], self._clock())
        self._ended_at.append(math.inf)
        self._spell += 1

    def _held(self, code: str) -> Remembered | None:
        entry = self._entries.get(code.encode())
        return None if entry is None else self._read(entry)

    def _read(self, entry: bytes) -> Remembered:
        spell, fresh, version, read_at, expires_at, _ = _unpack(entry)
        is_over = expires_at == _IS_OVER
        expiry = None if is_over or expires_at == _NEVER_EXPIRES else _EPOCH + expires_at * _MICROSECOND
        destination = Destination(entry[_TARGET:].decode("ascii"), expiry, is_over, version)
        last_true_at = self._ended_at[spell] if fresh == _ALL_OF_IT else read_at
        return Remembered(destination, spell, fresh, read_at, last_true_at)

    def _is_fresh(self, held: Remembered) -> bool:
        if held.spell != self._spell or held.fresh == _NOT:
            return False
        return held.fresh == _ALL_OF_IT or self._clock() < held.read_at + LIFE_SECONDS

    def _put(self, code: str, destination: Destination, spell: int, fresh: int, read_at: float) -> None:
        key = code.encode()
        held = self._entries.get(key)
        place = self._new_place(key) if held is None else _place(held)
        expires_at = _IS_OVER if destination.is_over else _NEVER_EXPIRES
        if destination.expires_at is not None and not destination.is_over:
            expires_at = microseconds(destination.expires_at)
        fields = _ENTRY.pack(spell, fresh, destination.version, read_at, expires_at, place)
        entry = fields + destination.target.encode("ascii")
        self._entries[key] = entry
        self.bytes += _bytes_of(key, entry) - (_bytes_of(key, held) if held is not None else 0)
        while self.bytes > self._max_bytes:
            self._make_room()

    def _new_place(self, code: bytes) -> int:
        if self._free:
            place = self._free.pop()
            self._ring[place] = code
            self._marks[place] = 0
            return place
        self._ring.append(code)
        self._marks.append(0)
        return len(self._ring) - 1

    def _make_room(self) -> None:
        """The hand goes on by one place."""
        place = self._hand
        self._hand = (place + 1) % len(self._ring)
        if self._marks[place]:
            self._marks[place] = 0
        elif (code := self._ring[place]) is not None:
            self._drop(code)

    def _drop(self, code: bytes) -> None:
        entry = self._entries.pop(code, None)
        if entry is not None:
            place = _place(entry)
            self._ring[place] = None
            self._free.append(place)
            self.bytes -= _bytes_of(code, entry)


def _place(entry: bytes) -> int:
    place: int = _unpack(entry)[5]
    return place


# Two `bytes` without their characters, and the places in dictionary and ring; held to what Python takes by
# tests/links/test_cache_memory.py.
_ENTRY_BYTES = 135
_LARGEST_BYTES = _ENTRY_BYTES + _TARGET + 2048 + 64


def _bytes_of(code: bytes, entry: bytes) -> int:
    """The memory that remembering a link takes, estimated."""
    return _ENTRY_BYTES + len(code) + len(entry)


class Recently:
    """Codes of which something happened a short while ago: at most so many, the oldest are forgotten first."""

    def __init__(self, seconds: float, at_most: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._at_most = at_most
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, code: str) -> bool:
        return self._until.get(code, -math.inf) > self._clock()

    def __iter__(self) -> Iterator[str]:
        now = self._clock()
        return iter([code for code, until in self._until.items() if until > now])

    def add(self, code: str) -> None:
        self._until[code] = self._clock() + self._seconds
        self._until.move_to_end(code)
        while len(self._until) > self._at_most:
            self._until.popitem(last=False)
