"""Counts in Redis: functions on the server do the counting (the folder counting), this file asks them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

import msgspec

from urlshortener.events.event import AccessEvent, Progress
from urlshortener.stats.access import RequestMemory, instant, quarters_between
from urlshortener.stats.progress import Course, Stretch, advances, done_of, drift_of, is_kept
from urlshortener.stats.redis_batch import Batch
from urlshortener.stats.redis_connection import Command, FunctionMissing, Line, RedisConnection, Reply, Sentinels
from urlshortener.stats.store import DRIFT_AFTER, Drift, LinkStats, Recorded, StatsPage
from urlshortener.telemetry import LOG, database_call

_PARTS = ("layout", "once", "tallies", "progress", "batch", "asking", "functions")
_FOLDER = files("urlshortener.stats") / "counting"
LIBRARY = "\n".join((_FOLDER / f"{part}.lua").read_text("utf-8") for part in _PARTS)
_VERSION = LIBRARY.partition("\n")[0].rpartition("_")[2]
_WAIT_MILLISECONDS = 300
GRACE_SECONDS = 3.0
_QUARTERS_OF_A_DAY = 96
_REQUESTS = RequestMemory()
_SPAN_DAYS = 32  # as in counting/layout.lua
_SWEPT_AT_ONCE = 500  # some milliseconds in which nothing is counted
_SWEEPS = 20


class RedisStats:
    """The StatsStore in Redis. One call for each batch of what is new; equal numbers on every replica that has it.

    What the last seconds brought may be undone: the append-only file may be written up to 2 s late when the master is
    killed and started again at once, and Sentinel may promote a replica that is behind. Then `generation` has grown.

    A batch counts as replicated once all replicas that are there have it; under Sentinel at least one.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        retention: timedelta,
        requests: RequestMemory = _REQUESTS,
    ) -> None:
        self._connection = connection
        self._retention_seconds = int(retention.total_seconds())
        self._requests = requests
        self._said_that_it_is_alone = False

    @property
    def grace_seconds(self) -> float:
        return GRACE_SECONDS

    @property
    def generation(self) -> int:
        """Grows when another Redis process has the counts: what an older generation recorded may be gone."""
        return self._connection.generation

    async def record(self, batch: Sequence[AccessEvent], progress: Sequence[Progress] = ()) -> Recorded:
        """In one call, if none of it is known. Else the server counts nothing and says what is; the others go again."""
        advanced, left = advances(batch, progress), Batch(batch, self._requests)
        answer, replicated, generation = await self._count(left.packed(self._retention_seconds, advanced))
        while len(answer) > 1:
            left.strike_out(answer)
            # Should another Redis answer now, what the one before knew may be gone. The caller sees it by the
            # generation, and brings all of it again.
            answer, replicated, _ = await self._count(left.packed(self._retention_seconds, advanced))
        return Recorded(
            len(left) - left.retries, len(batch) - len(left), left.retries, answer[0], replicated, generation
        )

    async def _count(self, packed: bytes) -> tuple[list[Reply], bool, int]:
        """The answer, whether the replicas have it, and the generation that it is of."""
        try:
            return await self._call(packed)
        except FunctionMissing:
            await self._connection.load(LIBRARY)
            return await self._call(packed)

    async def _call(self, packed: bytes) -> tuple[list[Reply], bool, int]:
        async with self._connection.writing() as line:
            await line.ask_for_replicas()
            wanted = self._replicas_wanted(line)
            function = f"shortener_count_{_VERSION}"
            with database_call("redis", "FCALL", {"db.stored_procedure.name": function}):
                answer, acknowledged = await line.ask(
                    ("FCALL", function, 0, packed), ("WAIT", wanted, _WAIT_MILLISECONDS)
                )
            return answer, acknowledged >= wanted, line.generation

    def _replicas_wanted(self, line: Line) -> int:
        there = line.replicas
        if isinstance(self._connection.place, Sentinels):
            there = max(there, 1)  # where there is a Sentinel there ought to be a replica: without one, nothing is safe
        elif there == 0 and not self._said_that_it_is_alone:
            self._said_that_it_is_alone = True
            LOG.warning("counts_on_one_disk")
        return there

    async def of(self, code: str) -> LinkStats | None:
        (record,) = await self._connection.read(("GET", f"us:r:{code}"))
        return None if record is None else _link_stats(code, record)

    async def top(self, limit: int, offset: int) -> StatsPage:
        total, *page = await self._ask_function("top", offset, limit)
        rows = zip(page[::2], page[1::2], strict=True)
        return StatsPage([_link_stats(code.decode(), record) for code, record in rows], total)

    async def quarters(self, code: str, start: datetime, end: datetime) -> Mapping[int, int]:
        wanted = quarters_between(start, end)
        if not wanted:
            return {}
        answer = await self._ask_function(
            "quarters", code, _span(wanted[0]), _span(wanted[-1]), self._retention_seconds
        )
        if not answer:
            return {}
        latest, how_many, *spans = answer
        found: dict[int, int] = {latest: how_many} if how_many else {}
        for span, fields in zip(spans[::2], spans[1::2], strict=True):
            for day, packed in zip(fields[::2], fields[1::2], strict=True):
                found |= _quarters_of_day(span * _SPAN_DAYS + int(day), packed)
        return {quarter: count for quarter, count in sorted(found.items()) if quarter in wanted}

    async def _ask_function(self, name: str, *arguments: str | int) -> list[Reply]:
        """A function that only reads: it answers on a master that takes no writes at the moment, too."""
        command = ("FCALL_RO", f"shortener_{name}_{_VERSION}", 0, *arguments)
        try:
            (answer,) = await self._connection.read(command)
        except FunctionMissing:
            await self._connection.load(LIBRARY)
            (answer,) = await self._connection.read(command)
        return list(answer)

    async def drift(self, older_than: timedelta = DRIFT_AFTER) -> Sequence[Drift]:
        courses, now = await self._courses()
        return await drift_of(courses, self._counted, now, older_than)

    async def _courses(self) -> tuple[dict[str, Course], int]:
        """And what time it is there."""
        packed, (seconds, _) = await self._connection.read(("HGETALL", "us:progress"), ("TIME",))
        courses = {epoch.decode(): Course.unpacked(one) for epoch, one in zip(packed[::2], packed[1::2], strict=True)}
        return courses, int(seconds)

    async def _counted(self, stretches: Sequence[Stretch]) -> list[int]:
        arguments = [word for stretch in stretches for word in (stretch.epoch, stretch.first, stretch.last)]
        return await self._ask_function("counted", *arguments)

    async def tidy(self, now: datetime) -> None:
        """Days are closed by the next access, and what is past its retention expires: all that is left are epochs, and
        visitors of codes that nobody follows any more. Of these some are looked at, each time others."""
        courses, seconds = await self._courses()
        old = [epoch for epoch, course in courses.items() if not is_kept(course, seconds)]
        done = await done_of(courses, self._counted)
        commands: list[Command] = [("HDEL", "us:progress", epoch) for epoch in old]
        commands += [("FCALL", f"shortener_done_{_VERSION}", 0, epoch, below) for epoch, below in done.items()]
        commands += [("FCALL", f"shortener_sweep_{_VERSION}", 0, _SWEPT_AT_ONCE)] * _SWEEPS
        try:
            async with self._connection.writing() as line:
                await line.ask(*commands)
        except FunctionMissing:  # another master since: the next call does the rest
            await self._connection.load(LIBRARY)

    async def ping(self) -> None:
        async with self._connection.writing() as line:  # unlike PING, refused by whoever takes no writes now
            await line.ask(("INCR", "us:beat"))

    async def close(self) -> None:
        await self._connection.close()


def _span(quarter: int) -> int:
    return quarter // _QUARTERS_OF_A_DAY // _SPAN_DAYS


def _link_stats(code: str, record: bytes) -> LinkStats:
    count, last_us, bots, closed, _, _, _, visitors, _, *earlier = msgspec.msgpack.decode(record)
    return LinkStats(code, count, bots, closed + visitors + sum(earlier[1::2]), instant(last_us))


def _quarters_of_day(day: int, packed: bytes) -> dict[int, int]:
    # The server packs 1, 2, 3, … as an array and anything else as a map.
    counts: Any = msgspec.msgpack.decode(packed, type=dict[int, int] | list[int])
    pairs = counts.items() if isinstance(counts, dict) else enumerate(counts, 1)
    return {day * _QUARTERS_OF_A_DAY + quarter - 1: count for quarter, count in pairs}
