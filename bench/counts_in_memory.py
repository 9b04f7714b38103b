"""How much of Redis' memory does a counted code take, of a million, with all that is kept of it?

On three days in a row every code is followed once, each time by another visitor. Then one code is followed again and
again without one, which leaves nothing but the memory of which events were counted; a number is left out here and
there, so that no block of them is complete and shrinks to a marker. Then the same with an id for each request. Told is
by how many bytes `used_memory` grows each time: that is what `maxmemory` bounds, the server's own tables included.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from bench.harness import cores, traffic
from bench.harness.run import Run
from tests.backends.redis import Redis
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.access import RequestMemory
from urlshortener.stats.redis import RedisStats
from urlshortener.stats.redis_connection import RedisConnection, RedisServer

TITLE = "A million counted codes in Redis"

_CODES = 1_000_000
_EVENTS = 500_000
_DAYS = ("a code, on its first day", "a code, more on its second day", "a code, more on its third day")
_LEFT_OUT = 50_000  # of so many numbers one, and each block has more
_BATCH = 2_000
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


def ask(run: Run) -> None:
    server = run.start(Redis("bench-redis-of-its-own"), cores.LOAD, what="Redis")
    server.ask("CONFIG", "SET", "appendonly", "no")  # it is asked for memory, and must not wait for a disk
    run.ran("the store of counts, called directly", cores.SERVICE)
    with cores.on(cores.SERVICE):
        asyncio.run(_measure(run, server))


async def _measure(run: Run, server: Redis) -> None:
    place = RedisServer(server.host, server.port, server.password)
    store = RedisStats(RedisConnection(place), retention=timedelta(days=90), requests=RequestMemory())
    counting = _Counting(server, store)
    now, codes, events = datetime.now(UTC), run.so_many(_CODES), run.so_many(_EVENTS)
    await store.record([_event("warm", 0, "warm", now)])  # whatever comes with the first
    try:
        for day, what in enumerate(_DAYS):
            at = now - timedelta(days=len(_DAYS) - 1 - day)
            run.say(f"{what}: {codes:,} of them")
            run.figure(what, "bytes", [await counting.bytes_for_each(_a_day(f"day-{day}", codes, at))])
        for what, has_id in (("an event", False), ("an event whose request is remembered", True)):
            run.say(f"{what}: {events:,} of them")
            run.figure(what, "bytes", [await counting.bytes_for_each(_of_one_code(events, now, has_id=has_id))])
        expected = len(_DAYS) * codes + 2 * events
        run.check(f"{expected:,} events, {counting.counted:,} counted", holds=counting.counted == expected)
        total = (await store.top(1, 0)).total
        run.check(f"{codes + 2:,} codes, {total:,} in Redis", holds=total == codes + 2)
    finally:
        await store.close()


@dataclass
class _Counting:
    """A store, and a look at its server's memory."""

    server: Redis
    store: RedisStats
    counted: int = 0

    async def bytes_for_each(self, events: Iterator[AccessEvent]) -> float:
        """Count them; by how many bytes the server has grown for each."""
        before, counted = self._used_bytes(), self.counted
        while batch := _next(events):
            self.counted += (await self.store.record(batch)).counted
        return (self._used_bytes() - before) / (self.counted - counted)

    def _used_bytes(self) -> int:
        return int(self.server.ask("INFO", "memory")["used_memory"])


def _next(events: Iterator[AccessEvent]) -> Sequence[AccessEvent]:
    return list(islice(events, _BATCH))


def _a_day(epoch: str, codes: int, at: datetime) -> Iterator[AccessEvent]:
    """Each code is followed once, by a visitor whom nobody has seen before."""
    for number in range(codes):
        yield _event(epoch, number, traffic.code_of(number + 1), at, visitor=f"{epoch}-{number:018x}")


def _of_one_code(events: int, now: datetime, *, has_id: bool) -> Iterator[AccessEvent]:
    """A thousand a second until now."""
    for number in range(events):
        at = now - timedelta(milliseconds=events - number)
        request_id = f"{number:032x}" if has_id else None
        yield _event(f"ids-{has_id}", number + number // _LEFT_OUT, "popular", at, request_id=request_id)


def _event(
    epoch: str, seq: int, code: str, at: datetime, *, visitor: str | None = None, request_id: str | None = None
) -> AccessEvent:
    return AccessEvent(EventId(epoch, seq), code, at, _BROWSER, visitor=visitor, request_id=request_id)
