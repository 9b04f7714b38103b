"""How far the epochs have come that events are counted of: what is missing below that was lost, or is still on its way.

An epoch's numbers have no gaps, each message tells its highest number so far, and the stores know which are counted.
So what was known for a while and is not counted is missed. A number has no time; which hour it belongs to follows from
the numbers that were seen in that hour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple, Protocol

import msgspec

from urlshortener.events.event import AccessEvent, EventId, Progress
from urlshortener.stats.access import microseconds
from urlshortener.stats.store import Drift

HOUR_SECONDS = 3600
MARK_SECONDS = 60
PROGRESS_KEPT = timedelta(days=13)  # less than epochs are: what is forgotten must not look missing
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


class Advance(NamedTuple):
    """What a batch tells of one epoch."""

    epoch: str
    host: str
    highest: int
    is_last: int  # 0 or 1
    hour: int  # since 1970, of the batch's last event of it; -1: there is none
    seq: int  # the number of that event


def advances(batch: Sequence[AccessEvent], progress: Sequence[Progress]) -> list[Advance]:
    """One for each epoch whose publisher tells how far it is."""
    if not progress:
        return []
    told: dict[str, Progress] = {}
    for one in progress:
        before = told.get(one.epoch, one)
        highest, is_last = max(before.highest_seq, one.highest_seq), before.is_last or one.is_last
        told[one.epoch] = replace(one, highest_seq=highest, is_last=is_last)
    last = {event.id.epoch: event for event in batch if isinstance(event.id, EventId)}
    return [_advance(one, last.get(one.epoch)) for one in told.values()]


def _advance(told: Progress, last: AccessEvent | None) -> Advance:
    if last is None or not isinstance(last.id, EventId):
        return Advance(told.epoch, told.host, told.highest_seq, int(told.is_last), -1, -1)
    hour = microseconds(last.at) // (HOUR_SECONDS * 1_000_000)
    return Advance(told.epoch, told.host, max(told.highest_seq, last.id.seq), int(told.is_last), hour, last.id.seq)


class Stretch(NamedTuple):
    """Numbers of an epoch that belong to an hour."""

    epoch: str
    hour: int
    first: int
    last: int

    @property
    def how_many(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Course:
    """How an epoch has advanced. Two marks, a minute or more apart, tell what was known a while ago.

    counting/progress.lua keeps the same fields in the same order, and brings them forward in the same way.
    """

    host: str
    highest: int = -1
    is_last: bool = False
    advanced_at: int = 0  # seconds since 1970, by the store's clock
    mark: int = -1
    marked_at: int = 0
    mark_before: int = -1
    marked_before_at: int = 0
    done_below: int = 0  # all of these are counted
    hours: tuple[tuple[int, int], ...] = ()  # hour -> the highest number that was seen in it

    @classmethod
    def unpacked(cls, packed: bytes) -> "Course":
        fields: list[Any] = msgspec.msgpack.decode(packed)
        hours = tuple(zip(fields[9::2], fields[10::2], strict=True))
        return cls(fields[0], fields[1], bool(fields[2]), *fields[3:9], hours)  # type: ignore[call-arg]

    def packed(self) -> bytes:
        hours = chain.from_iterable(self.hours)
        numbers = (self.advanced_at, self.mark, self.marked_at, self.mark_before, self.marked_before_at)
        return msgspec.msgpack.encode([self.host, self.highest, int(self.is_last), *numbers, self.done_below, *hours])

    def after(self, advance: Advance, now: int) -> "Course":
        """This, and what a batch tells."""
        course = replace(self, host=advance.host, is_last=self.is_last or bool(advance.is_last))
        if advance.highest > course.highest:
            course = replace(course, highest=advance.highest, advanced_at=now)
        if now - course.marked_at >= MARK_SECONDS:
            course = replace(
                course,
                mark=course.highest,
                marked_at=now,
                mark_before=course.mark,
                marked_before_at=course.marked_at,
            )
        if advance.hour < 0:
            return course
        hours = dict(course.hours)
        hours[advance.hour] = max(hours.get(advance.hour, -1), advance.seq)
        return replace(course, hours=tuple(sorted(hours.items())))

    def known_at(self, at: int) -> int:
        """The highest number that was known then."""
        if self.advanced_at <= at:
            return self.highest
        return self.mark if self.marked_at <= at else self.mark_before if self.marked_before_at <= at else -1

    def stretches(self, epoch: str, until: int) -> list[Stretch]:
        """All numbers up to that one that may be missing, by hour."""
        hours = sorted(self.hours) or [(self.advanced_at // HOUR_SECONDS, until)]
        found, first = [], self.done_below
        for number, (hour, seq) in enumerate(hours, 1):
            last = until if number == len(hours) else min(seq, until)
            if last >= first:
                found.append(Stretch(epoch, hour, first, last))
                first = last + 1
        return found

    def done(self, below: int) -> "Course | None":
        """This, when all below is counted; None if the epoch is over with that."""
        if self.is_last and below > self.highest:
            return None
        hours = tuple(pair for pair in self.hours if pair[1] >= below) or self.hours[-1:]
        return replace(self, done_below=max(below, self.done_below), hours=hours)


class Counted(Protocol):
    """How many numbers of each stretch are counted."""

    async def __call__(self, stretches: Sequence[Stretch]) -> Sequence[int]: ...


async def drift_of(courses: Mapping[str, Course], counted: Counted, now: int, older_than: timedelta) -> list[Drift]:
    """What is missing of what was known so long ago."""
    known_at = now - int(older_than.total_seconds())
    stretches = [
        stretch
        for epoch, course in courses.items()
        if is_kept(course, now)
        for stretch in course.stretches(epoch, course.known_at(known_at))
    ]
    missing = [
        stretch.how_many - how_many for stretch, how_many in zip(stretches, await counted(stretches), strict=True)
    ]
    return [
        Drift(courses[stretch.epoch].host, stretch.epoch, _1970 + timedelta(hours=stretch.hour), how_many)
        for stretch, how_many in zip(stretches, missing, strict=True)
        if how_many > 0
    ]


async def done_of(courses: Mapping[str, Course], counted: Counted) -> dict[str, int]:
    """For each epoch whose first numbers are all counted: below which."""
    stretches = [stretch for epoch, course in courses.items() for stretch in course.stretches(epoch, course.highest)]
    below: dict[str, int] = {}
    incomplete: set[str] = set()
    for stretch, how_many in zip(stretches, await counted(stretches), strict=True):
        if stretch.epoch not in incomplete and how_many == stretch.how_many:
            below[stretch.epoch] = stretch.last + 1
        else:
            incomplete.add(stretch.epoch)
    # One that is complete already and has ended since has no stretch left.
    over = {epoch: course.done_below for epoch, course in courses.items() if course.done_below > course.highest}
    return over | below


def is_kept(course: Course, now: int) -> bool:
    return now - course.advanced_at < PROGRESS_KEPT.total_seconds()
