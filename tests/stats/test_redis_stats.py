import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.backends.redis import Redis, RedisSentinel
from urlshortener.errors import StoreUnavailable
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.redis import LIBRARY, RedisStats
from urlshortener.stats.redis_connection import RedisConnection, RedisServer, Sentinels
from urlshortener.stats.store import Recorded

NOW = datetime.now(UTC).replace(microsecond=123456)
DAY = timedelta(days=1)
RETENTION = timedelta(days=400)
BLOCK = 65_536

Open = Callable[..., RedisStats]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens stores, and closes them when the test is over."""
    made: list[RedisStats] = []

    def open_store(place: RedisServer | Sentinels) -> RedisStats:
        connection = RedisConnection(place)
        made.append(RedisStats(connection, retention=RETENTION))
        return made[-1]

    yield open_store
    for store in made:
        await store.close()


def at(server: Redis, database: int = 0) -> RedisServer:
    return RedisServer(server.host, server.port, server.password, database=database)


def under(group: RedisSentinel) -> Sentinels:
    return Sentinels(group.hosts, group.master_name, group.password)


def access(seq: int, code: str = "cat", when: datetime = NOW, epoch: str = "epoch", visitor: str = "v") -> AccessEvent:
    return AccessEvent(EventId(epoch, seq), code, when, visitor=visitor)


async def record_until_it_is(store: RedisStats, batch: Sequence[AccessEvent], within_seconds: float) -> Recorded:
    """As a consumer does: the same events again, until the store says that they are counted."""
    end = time.monotonic() + within_seconds
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await store.record(batch)
        assert time.monotonic() < end, f"not counted within {within_seconds} s"
        await asyncio.sleep(0.01)


async def count_of(store: RedisStats, code: str = "cat") -> int:
    stats = await store.of(code)
    return stats.access_count if stats else 0


class Redirected:
    """A line to a Redis that is cut after a number of bytes of its answers."""

    def __init__(self, server: Redis) -> None:
        self._to = server
        self.bytes_until_cut: int | None = None  # None: never
        self.was_cut = False

    async def __aenter__(self) -> "Redirected":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(self._to.host, self._to.port)
        there = asyncio.create_task(self._carry(reader, to_server, cut=False))
        await self._carry(from_server, writer, cut=True)
        await there

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, cut: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while some := await reader.read(65_536):
                if cut and self.bytes_until_cut is not None:
                    some, left = some[: self.bytes_until_cut], self.bytes_until_cut - len(some)
                    self.bytes_until_cut = left if left > 0 else None
                    if left <= 0:
                        self.was_cut = True
                        writer.write(some)
                        break
                writer.write(some)
        writer.close()


# once each, whatever fails


@pytest.mark.parametrize(
    ("known", "answer_bytes"),
    [
        ([], len(b"*1\r\n:0\r\n:0\r\n")),
        ([0], len(b"*3\r\n*4\r\n$5\r\nepoch\r\n:0\r\n:0\r\n$1\r\n-\r\n*0\r\n*0\r\n:0\r\n*1\r\n:0\r\n:0\r\n")),
    ],
    ids=["all of it is new", "some of it is known"],
)
async def test_an_answer_that_is_cut_anywhere_is_counted_once_when_it_is_repeated(
    opened: Open, redis_server: Redis, redis_database: int, known: list[int], answer_bytes: int
) -> None:
    async with Redirected(redis_server) as line:
        store = opened(RedisServer("127.0.0.1", line.port, redis_server.password, database=redis_database))
        await store.record([access(0)])
        for cut_after in range(1, answer_bytes + 1):
            batch = [access(seq) for seq in (*known, 10 + cut_after)]
            line.was_cut, line.bytes_until_cut = False, cut_after
            with pytest.raises(StoreUnavailable):
                await store.record(batch)
                await store.ping()  # after the last byte the record is done, and it is the next call that fails
            assert line.was_cut
            await store.record(batch)
            assert (await store.record(batch)).counted == 0
            assert await count_of(store) == 1 + cut_after


async def test_a_redis_that_is_killed_and_started_again_loses_and_doubles_nothing(
    opened: Open, own_redis: Redis
) -> None:
    store = opened(at(own_redis))
    own_redis.ask("CONFIG", "SET", "appendfsync", "always")
    batches = [[access(first + n, code=f"c{n % 7}") for n in range(50)] for first in range(0, 5000, 50)]
    failures = 0

    async def record_all() -> None:
        nonlocal failures
        for batch in batches:
            while True:
                try:
                    await store.record(batch)
                except StoreUnavailable:
                    failures += 1
                else:
                    break

    recording = asyncio.create_task(record_all())
    while await count_of(store, "c0") < 100:
        assert not recording.done()
    await asyncio.to_thread(own_redis.kill)
    await asyncio.to_thread(own_redis.start)
    await asyncio.wait_for(recording, 20)
    assert failures > 0
    assert store.generation == 1
    assert sum(stats.access_count for stats in (await store.top(100, 0)).items) == 5000
    assert [(await store.record(batch)).counted for batch in batches] == [0] * len(batches)


async def test_what_one_redis_knew_does_not_pass_for_counted_on_the_next(
    opened: Open, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(at(own_redis))
    await store.record([access(0)])
    count = store._count

    async def count_and_fail_over(packed: bytes) -> Any:
        answer, *rest = await count(packed)
        if len(answer) > 1:  # it says what it knows
            own_redis.ask("FLUSHALL")
            own_redis.kill()
            own_redis.start()
            with contextlib.suppress(StoreUnavailable):
                await store.ping()  # somebody else notices first
        return answer, *rest

    monkeypatch.setattr(store, "_count", count_and_fail_over)
    recorded = await store.record([access(0), access(1)])
    assert (recorded.counted, recorded.duplicates) == (1, 1)
    assert recorded.generation < store.generation, "so that both are brought again"
    monkeypatch.undo()
    assert (await store.record([access(0), access(1)])).counted == 1
    assert await count_of(store) == 2


async def until_replicated(store: RedisStats, batch: list[AccessEvent]) -> None:
    """A busy machine may take longer than one WAIT."""
    end = time.monotonic() + 10
    while not (await store.record(batch)).replicated:
        assert time.monotonic() < end, "no replica took it within 10 s"


async def test_a_master_that_is_killed_is_replaced_and_all_is_exact_after_repeating(
    opened: Open, own_redis_sentinel: RedisSentinel
) -> None:
    group = own_redis_sentinel
    store = opened(under(group))
    before = [access(n) for n in range(300)]
    assert (await store.record(before)).counted == 300
    await until_replicated(store, before)
    await asyncio.to_thread(group.master().kill)
    after = [access(n) for n in range(300, 400)]
    recorded = await record_until_it_is(store, after, within_seconds=5)
    assert recorded.generation == store.generation == 1
    assert (await store.record(before)).counted == 0, "what a replica acknowledged is on the new master"
    await store.record(after)
    assert await count_of(store) == 400


async def test_a_batch_too_few_replicas_have_says_so(opened: Open, own_redis_sentinel: RedisSentinel) -> None:
    group = own_redis_sentinel
    store = opened(under(group))
    await until_replicated(store, [access(0)])
    for replica in group.replicas():
        replica.pause()
    recorded = await store.record([access(1)])
    assert (recorded.counted, recorded.replicated) == (1, False)
    for member in group.members:
        member.resume()
    await until_replicated(store, [access(1)])  # a batch of nothing but duplicates has something to wait for as well
    assert await count_of(store) == 2


async def test_a_single_redis_waits_for_nobody_and_says_so_once(
    opened: Open, redis_server: Redis, redis_database: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(at(redis_server, redis_database))
    assert (await store.record([access(0)])).replicated
    assert (await store.record([access(1)])).replicated
    assert caplog.text.count("counts_on_one_disk") == 1


# the library


async def test_a_server_that_still_has_no_library_after_it_was_loaded_is_as_good_as_away(
    opened: Open, redis_server: Redis, redis_database: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def on_the_master_before(connection: RedisConnection, library: str) -> None:
        """It was loaded there, and there is another since."""

    monkeypatch.setattr(RedisConnection, "load", on_the_master_before)
    monkeypatch.setattr("urlshortener.stats.redis._VERSION", "v0")
    store = opened(at(redis_server, redis_database))
    with pytest.raises(StoreUnavailable):
        await store.record([access(0)])
    with pytest.raises(StoreUnavailable):
        await store.top(1, 0)


async def test_two_versions_of_the_library_count_side_by_side(
    opened: Open, redis_server: Redis, redis_database: int
) -> None:
    store = opened(at(redis_server, redis_database))
    await store.record([access(0)])
    newer = LIBRARY.replace("_v3", "_v9")
    redis_server.ask("FUNCTION", "LOAD", "REPLACE", newer)
    assert (await store.record([access(0), access(1)])).duplicates == 1
    both = redis_server.ask("FUNCTION", "LIST", "LIBRARYNAME", "shortener_counting_v*")
    assert len(both) == 2
    redis_server.ask("FUNCTION", "DELETE", "shortener_counting_v9")


async def test_a_server_that_lost_the_library_gets_it_again(opened: Open, own_redis: Redis) -> None:
    store = opened(at(own_redis))
    await store.record([access(0)])
    own_redis.ask("FUNCTION", "FLUSH")
    assert (await store.top(10, 0)).total == 1
    own_redis.ask("FUNCTION", "FLUSH")
    assert await store.record([access(0), access(1)]) == Recorded(1, 1)


# A batch as counting/batch.lua wants it: numbers, foreign ids, requests, tallies, how far epochs have come, limits
GOOD: list[Any] = [
    [["epoch", 0, 7, 7]],
    ["foreign"],
    [["1:2", "1:2", ["request"]]],
    [[9, "cat", 1, 0, 1, ",visitor"]],
    [["epoch", "host", 7, 0, 1, 7]],
    [86400, 600, 1000],
]


def with_part(number: int, part: object) -> list[object]:
    return [*GOOD[:number], part, *GOOD[number + 1 :]]


@pytest.mark.parametrize(
    "batch",
    [
        "no batch",
        GOOD[:5],
        with_part(0, "epoch"),
        with_part(0, [["", 0, 7, 7]]),
        with_part(0, [["epoch", -1, 7, 7]]),
        with_part(0, [["epoch", 2**32, 7, 7]]),
        with_part(0, [["epoch", 0, 7]]),
        with_part(0, [["epoch", 0, 7, 6]]),
        with_part(0, [["epoch", 0, 7, 7], ["epoch", 1, 0.5, 7]]),
        with_part(0, [["epoch", 0, 7, BLOCK]]),
        with_part(1, [""]),
        with_part(1, [5]),
        with_part(2, [["1:2", "1:2"]]),
        with_part(2, [["1:2", "1:2", ["request", ""]]]),
        with_part(2, [["1:2", "1:2", [5]]]),
        with_part(2, [["1:2", "", ["request"]]]),
        with_part(3, [[9, "cat", 1, 0, 1]]),
        with_part(3, [[-9, "cat", 1, 0, 1, ""]]),
        with_part(3, [[9, "", 1, 0, 1, ""]]),
        with_part(3, [[9, "cat", "one", 0, 1, ""]]),
        with_part(3, [[9, "cat", 1.5, 0, 1, ""]]),
        with_part(3, [[9, "cat", 1, -1, 1, ""]]),
        with_part(3, [[9, "cat", 1, 0, 2**52, ""]]),
        with_part(3, [[9, "cat", 1, 0, 1, "visitor"]]),
        with_part(3, [[9, "cat", 1, 0, 1, 5]]),
        with_part(4, ["far"]),
        with_part(4, [["epoch", "host", 7, 2, 1, 7]]),
        with_part(5, [86400, 600]),
        with_part(5, [86400, 600, -1]),
    ],
)
async def test_a_batch_that_cannot_be_read_leaves_nothing_behind(
    opened: Open, redis_server: Redis, redis_database: int, batch: object
) -> None:
    store = opened(at(redis_server, redis_database))
    await store.record([])
    connection = RedisConnection(at(redis_server, redis_database))
    packed = msgspec.msgpack.encode(batch)
    try:
        with pytest.raises(StoreUnavailable):
            await connection.read(("FCALL", "shortener_count_v3", 0, packed))
        assert await connection.read(("DBSIZE",)) == [1], "the beat alone"
        good = ("FCALL", "shortener_count_v3", 0, msgspec.msgpack.encode(GOOD))
        known = [[b"epoch", 7, 7, b"\x01"], [b"foreign"], [b"request"]]
        assert await connection.read(good, good) == [[0], known]
    finally:
        await connection.close()


async def test_requests_are_remembered_for_the_window_after_they_were_counted(
    store: RedisStats, raw: RedisConnection
) -> None:
    await store.record([AccessEvent(EventId("epoch", n), "cat", NOW, request_id=f"r{n}") for n in range(1000)])
    (keys,) = await raw.read(("KEYS", "us:x:*"))
    assert len(keys) == 64 + 1, "sets that are small enough to be forgotten at once, and a number"
    assert all(590 < left <= 600 for left in await raw.read(*(("TTL", key) for key in keys)))


# what is kept, and for how long


@pytest.fixture
async def raw(redis_server: Redis, redis_database: int) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(at(redis_server, redis_database))
    yield connection
    await connection.close()


@pytest.fixture
def store(opened: Open, redis_server: Redis, redis_database: int) -> RedisStats:
    return opened(at(redis_server, redis_database))


async def test_a_block_of_numbers_that_is_full_takes_no_bitmap_and_is_still_known(
    store: RedisStats, raw: RedisConnection
) -> None:
    for first in range(0, BLOCK, 8192):
        await store.record([access(n) for n in range(first, first + 8192)])
    assert await raw.read(("EXISTS", "us:b:epoch:0"), ("HGET", "us:e:epoch", "0")) == [0, b"full"]
    assert await store.record([access(0), access(BLOCK - 1), access(BLOCK)]) == Recorded(1, 2)
    assert await count_of(store) == BLOCK + 1


async def test_an_epoch_is_remembered_as_a_whole_for_14_days_after_its_last_event(
    store: RedisStats, raw: RedisConnection
) -> None:
    keys = ("us:e:epoch", "us:b:epoch:0", "us:b:epoch:3")
    await store.record([access(0), access(3 * BLOCK)])
    await raw.read(*(("EXPIRE", key, 60) for key in keys))
    await store.record([access(3 * BLOCK + 1)])  # of a later block
    assert all(14 * 86400 <= left <= 14 * 86400 + 3600 for left in await raw.read(*(("TTL", key) for key in keys)))


async def test_a_foreign_event_is_remembered_for_a_day(store: RedisStats, raw: RedisConnection) -> None:
    event = AccessEvent("a-foreign-id", "cat", NOW)
    assert await store.record([event, event]) == Recorded(1, 1)
    (left,) = await raw.read(("TTL", "us:i:a-foreign-id"))
    assert 86_390 <= left <= 86_400


async def test_quarters_go_when_their_span_is_past_its_retention_and_totals_stay(
    store: RedisStats, raw: RedisConnection
) -> None:
    long_ago = NOW - RETENTION - 40 * DAY
    hour_ago = NOW - timedelta(hours=1)
    await store.record([access(0, when=long_ago), access(1, when=hour_ago), access(2)])
    assert sum((await store.quarters("cat", long_ago - DAY, NOW + DAY)).values()) == 2
    assert await count_of(store) == 3
    (key,) = (await raw.read(("KEYS", "us:q:*")))[0]
    (left,) = await raw.read(("TTL", key))
    assert RETENTION.total_seconds() - 3600 <= left <= (RETENTION + 32 * DAY).total_seconds()


async def test_the_latest_quarter_goes_like_the_others(store: RedisStats) -> None:
    """It is kept apart from them, until there is a later one."""
    for days, shown in ((399, 1), (400 + 33, 0)):
        await store.record([access(days, code=f"old{days}", when=NOW - days * DAY)])
        found = await store.quarters(f"old{days}", NOW - 500 * DAY, NOW)
        assert sum(found.values()) == shown


async def test_quarters_that_come_in_any_order_are_all_there(store: RedisStats) -> None:
    times = [NOW - timedelta(minutes=15 * back) for back in (3, 1, 2, 0, 3, 0, 1)]
    for seq, when in enumerate(times):
        await store.record([access(seq, when=when)])
    found = await store.quarters("cat", NOW - DAY, NOW + DAY)
    assert list(found.values()) == [2, 1, 2, 2]


async def test_a_day_that_is_over_becomes_a_number_and_keeps_its_visitors(
    store: RedisStats, raw: RedisConnection
) -> None:
    first = NOW - 30 * DAY
    for day in range(31):
        await store.record([access(3 * day + n, when=first + day * DAY, visitor=f"v{n}") for n in range(3)])
    stats = await store.of("cat")
    assert stats is not None
    assert stats.visitors == 31 * 3
    (record,) = await raw.read(("GET", "us:r:cat"))
    assert len(msgspec.msgpack.decode(record)) == 9 + 2 * 8, "today and eight days are open"
    (sketches,) = await raw.read(("KEYS", "us:v:*"))
    assert all(0 < left <= 10 * 86_400 for left in await raw.read(*(("TTL", key) for key in sketches)))


async def test_nobody_is_found_later_by_the_visitors_of_a_code_that_is_followed_no_more(
    store: RedisStats, raw: RedisConnection
) -> None:
    codes = {"today": 0, "open": 8, "over": 9, "long over": 100}
    for number, (code, days) in enumerate(codes.items()):
        await store.record([access(number, code=code, when=NOW - days * DAY, visitor="ann")])
    await store.tidy(NOW)
    records = await raw.read(*(("GET", f"us:r:{code}") for code in codes))
    assert [bool(_met(record)) for record in records] == [True, True, False, False]
    await store.record([access(9, code="over", when=NOW - 9 * DAY, visitor="bob")])
    assert [of_code.visitors for of_code in (await store.top(10, 0)).items] == [1, 1, 1, 1]


async def test_all_codes_are_looked_at_in_turn(store: RedisStats, raw: RedisConnection) -> None:
    count, old = 25_000, NOW - 9 * DAY  # more than one call of tidy looks at
    for first in range(0, count, 5000):
        await store.record([access(n, code=f"c{n}", when=old) for n in range(first, first + 5000)])
    for _ in range(4):
        await store.tidy(NOW)
    records = await raw.read(("MGET", *(f"us:r:c{n}" for n in range(count))))
    assert not any(map(_met, records[0]))


def _met(record: bytes) -> str:
    """The last visitors of a code, as counting/layout.lua has them."""
    visitors: str = msgspec.msgpack.decode(record)[8]
    return visitors


async def test_visitors_who_come_one_by_one_and_again_are_told_apart(store: RedisStats) -> None:
    """On two days in turn, so that there is always one that is not the latest."""
    for seq in range(180):
        when, visitor = NOW - (seq % 2) * DAY, seq // 2 % 30
        await store.record([access(seq, when=when, visitor=f"v{visitor}")])
        stats = await store.of("cat")
        assert stats is not None
        met = {(n % 2, n // 2 % 30) for n in range(seq + 1)}
        assert stats.visitors == len(met)


async def test_a_clock_that_is_ahead_closes_no_day_that_is_not_over(store: RedisStats) -> None:
    await store.record([access(0, visitor="early")])
    await store.record([access(1, when=NOW + 90 * DAY)])
    await store.record([access(2, visitor="late")])
    stats = await store.of("cat")
    assert stats is not None
    assert stats.visitors == 3


@pytest.mark.parametrize("visitors", [10, 16, 17, 100, 1000, 20_000])
async def test_visitors_are_told_apart_within_two_percent(store: RedisStats, visitors: int) -> None:
    events = [access(n, visitor=f"visitor {n % visitors}") for n in range(2 * visitors)]
    for first in range(0, len(events), 5000):
        await store.record(events[first : first + 5000])
    stats = await store.of("cat")
    assert stats is not None
    assert abs(stats.visitors - visitors) <= 0.02 * visitors


async def test_what_is_counted_is_small(store: RedisStats, raw: RedisConnection) -> None:
    async def used_bytes() -> int:
        (text,) = await raw.read(("INFO", "memory"))
        return int(text.partition(b"used_memory_dataset:")[2].split()[0])

    await store.record([access(0, code="warm")])
    before = await used_bytes()
    codes = 2000
    for turn in range(2):
        for first in range(0, codes, 500):
            numbers = range(turn * codes + first, turn * codes + first + 500)
            await store.record([access(n, code=f"c{n % codes:07}", visitor=f"v{n}") for n in numbers])
    assert (await used_bytes() - before) / codes < 350
