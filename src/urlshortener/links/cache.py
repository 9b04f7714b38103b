"""What is remembered of links, and for how long it is known to be true."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from urlshortener.links.link import Link

LIFE_SECONDS = 60.0  # of what a replica said, and of what was read while nobody would have told of a change
MOST_CHANGED = 100_000  # codes that are looked up on the primary alone for so long after a change
_NEVER = -math.inf
_ALWAYS = math.inf


@dataclass(slots=True, eq=False)
class Spell:
    """A stretch of time in which notifications of changes flowed without a gap, or in which none came."""

    is_listening: bool
    ended_at: float = math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A question to a database that is under way. What changes meanwhile, it may have missed."""

    began_at: float
    spell: Spell
    changed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """A link as a reading had it."""

    link: Link
    spell: Spell  # in which the reading began
    read_at: float
    fresh_until: float

    def last_true_at(self) -> float:
        """Until when it is known to have been true: while changes would have been told of, it was."""
        return self.spell.ended_at if self.fresh_until == _ALWAYS else self.read_at


class Cache:
    """Links in memory, bounded by bytes; the least recently used goes first.

    A remembered link is *fresh*, and may be followed without asking anyone, while both hold:

    * it was read in the present spell: neither was the listener lost since nor did it return, and no notification
      has named the link;
    * it came from the primary while the listener was connected, or it is younger than a minute.

    One that is not fresh is *expired*. It is kept, because it is all there is to serve when no database answers.
    A reading that was under way when a notification came is void for that code, since nobody knows which of the two
    was first. Readings of the primary win; but where two cross, and for a replica's always, the higher version wins.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, Remembered] = OrderedDict()
        self._readings: set[Reading] = set()
        self._changed = Recently(LIFE_SECONDS, MOST_CHANGED, clock)
        self._spell = Spell(is_listening=False)
        self.bytes = 0  # estimated
        self.times_known = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_listening(self) -> bool:
        return self._spell.is_listening

    @property
    def is_full(self) -> bool:
        """Whether another link would push one out."""
        return self.bytes + _LARGEST_BYTES > self._max_bytes

    def known(self, code: str) -> Link | None:
        """The link if it is fresh. Every redirect passes here: it is as short as it can be."""
        held = self._entries.get(code)
        if held is None or held.spell is not self._spell or held.fresh_until <= self._clock():
            return None
        self._entries.move_to_end(code)
        self.times_known += 1
        return held.link

    def held(self, code: str) -> Remembered | None:
        """What is remembered, fresh or expired."""
        held = self._entries.get(code)
        if held is not None:
            self._entries.move_to_end(code)
        return held

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Wrap every question to a database in this, so that it hears of what changes meanwhile."""
        reading = Reading(self._clock(), self._spell)
        self._readings.add(reading)
        try:
            yield reading
        finally:
            self._readings.discard(reading)

    def keep(self, link: Link, reading: Reading, *, from_primary: bool) -> bool:
        """Remember what a reading brought. False: do not believe it, newer is known or on its way; read again."""
        if link.code in reading.changed:
            return False
        held = self._entries.get(link.code)
        if held is not None and held.link.version > link.version:
            crossed = held.read_at > reading.began_at
            if crossed or not from_primary:
                return False
        if held is None or from_primary or not self._is_fresh(held):
            fresh_until = self._lasts_until(reading, from_primary=from_primary)
            self._put(Remembered(link, reading.spell, reading.began_at, fresh_until))
        return True

    def keep_own(self, link: Link, reading: Reading) -> None:
        """Remember a change that was made from here. If it may be outdated already, as expired."""
        is_void = link.code in reading.changed
        held = self._entries.get(link.code)
        self.changed(link.code)
        if held is None or held.link.version <= link.version:
            fresh_until = _NEVER if is_void else self._lasts_until(reading, from_primary=True)
            self._put(Remembered(link, reading.spell, reading.began_at, fresh_until))

    def keep_deletion(self, code: str, now: datetime) -> None:
        """Remember that a link was deleted from here; its row will tell the rest."""
        self.changed(code)
        if (held := self._entries.get(code)) is not None:
            link = replace(held.link, deleted_at=now, updated_at=now, version=held.link.version + 1)
            self._put(replace(held, link=link))

    def forget(self, code: str) -> None:
        held = self._entries.pop(code, None)
        if held is not None:
            self.bytes -= bytes_of(held.link)

    def changed(self, code: str) -> None:
        """Somebody changed this link: what is held of it is expired, what is being read of it is void."""
        self._changed.add(code)
        for reading in self._readings:
            reading.changed.add(code)
        held = self._entries.get(code)
        if held is not None:
            last_true_at = min(held.last_true_at(), self._clock())
            self._entries[code] = replace(held, read_at=last_true_at, fresh_until=_NEVER)

    def changed_recently(self, code: str) -> bool:
        """Whether a replica may still be behind a change of this link."""
        return code in self._changed

    def connected(self) -> None:
        """From now on changes are told of; those of before may have been missed."""
        self._begin_spell(is_listening=True)

    def lost(self) -> None:
        """From now on changes may be missed."""
        if self._spell.is_listening:
            self._begin_spell(is_listening=False)

    def _begin_spell(self, *, is_listening: bool) -> None:
        self._spell.ended_at = self._clock()
        self._spell = Spell(is_listening)

    def _lasts_until(self, reading: Reading, *, from_primary: bool) -> float:
        return _ALWAYS if from_primary and reading.spell.is_listening else reading.began_at + LIFE_SECONDS

    def _is_fresh(self, held: Remembered) -> bool:
        return held.spell is self._spell and held.fresh_until > self._clock()

    def _put(self, held: Remembered) -> None:
        self.forget(held.link.code)
        self._entries[held.link.code] = held
        self.bytes += bytes_of(held.link)
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= bytes_of(oldest.link)


# One entry with its link, id, times and places in the tables, strings without their characters; measured with
# tracemalloc, and held to it by tests/links/test_cache.py.
_ENTRY_BYTES = 600
_LARGEST_BYTES = _ENTRY_BYTES + 2048 + 64


def bytes_of(link: Link) -> int:
    """The memory that remembering a link takes, estimated."""
    return _ENTRY_BYTES + len(link.code) + len(link.target)


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
        return self._until.get(code, _NEVER) > self._clock()

    def add(self, code: str) -> None:
        self._until[code] = self._clock() + self._seconds
        self._until.move_to_end(code)
        while len(self._until) > self._at_most:
            self._until.popitem(last=False)
