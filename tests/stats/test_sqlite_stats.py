import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from urlshortener.errors import StoreUnavailable, WrongSetting
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats import sqlite, sqlite_file
from urlshortener.stats.sqlite import SqliteStats
from urlshortener.stats.sqlite_file import LAYOUT

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Clock:
    """The time, as a test sets it."""

    now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stats.db"


@pytest.fixture
async def stats(path: Path, clock: Clock) -> AsyncIterator[SqliteStats]:
    store = SqliteStats(path, retention=30 * DAY, clock=clock)
    yield store
    await store.close()


def event(
    seq: int | str, code: str = "cat", *, at: datetime = NOON, epoch: str = "epoch", visitor: str | None = None
) -> AccessEvent:
    return AccessEvent(seq if isinstance(seq, str) else EventId(epoch, seq), code, at, visitor=visitor)


async def counted(stats: SqliteStats, code: str = "cat") -> int:
    of_link = await stats.of(code)
    return of_link.access_count if of_link else 0


def ask(path: Path, query: str, *values: object) -> list[tuple[object, ...]]:
    """What another connection sees, and may do."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(query, values).fetchall()
    finally:
        connection.close()


# ---- all or nothing, and durably


async def test_what_fails_in_the_middle_leaves_nothing(stats: SqliteStats, path: Path) -> None:
    await stats.record([event(0)])
    ask(
        path,
        "CREATE TRIGGER no BEFORE INSERT ON quarters WHEN new.code = 'dog' BEGIN SELECT RAISE(ABORT, 'own words'); END",
    )
    batch = [event(1), event("foreign"), event(2, "dog", visitor="ann")]
    with pytest.raises(StoreUnavailable) as failure:
        await stats.record(batch)
    assert "own words" not in failure.value.detail
    assert (await counted(stats), await counted(stats, "dog"), (await stats.top(1, 0)).total) == (1, 0, 1)

    ask(path, "DROP TRIGGER no")
    recorded = await stats.record(batch)
    assert (recorded.counted, recorded.duplicates) == (3, 0)
    assert (await counted(stats), await counted(stats, "dog"), (await stats.top(1, 0)).total) == (3, 1, 2)


async def test_what_was_recorded_survives_a_kill(path: Path) -> None:
    dying = f"""
import asyncio, os, signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.sqlite import SqliteStats

async def main():
    stats = SqliteStats(Path({str(path)!r}), retention=timedelta(days=1))
    for first in range(0, 100, 10):
        await stats.record([AccessEvent(EventId("epoch", first + n), "cat", datetime.now(UTC)) for n in range(10)])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    died = subprocess.run([sys.executable, "-c", dying], env={**os.environ, "PYTHONPATH": "src"}, check=False)
    assert died.returncode == -signal.SIGKILL
    stats = SqliteStats(path, retention=DAY)
    assert await counted(stats) == 100
    assert (await stats.record([event(n) for n in range(101)])).counted == 1
    await stats.close()


async def test_a_commit_is_on_the_disk(stats: SqliteStats) -> None:
    (journal,) = stats._writer.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = stats._writer.execute("PRAGMA synchronous").fetchone()
    assert (journal, synchronous) == ("wal", 2)


async def test_a_record_whose_caller_went_away_is_whole(stats: SqliteStats) -> None:
    batch = [event(seq, visitor=f"visitor {seq}") for seq in range(500)]
    for pauses in range(4):
        caller = asyncio.create_task(stats.record(batch))
        for _ in range(pauses):
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    recorded = await stats.record(batch)
    assert recorded.counted in (0, 500)
    of_link = await stats.of("cat")
    assert of_link and (of_link.access_count, of_link.visitors) == (500, 500)


async def test_counts_stay_when_it_is_opened_again(path: Path) -> None:
    for _ in range(2):
        stats = SqliteStats(path, retention=DAY)
        await stats.record([event(0), event("foreign")])
        assert await counted(stats) == 2
        await stats.close()


async def test_while_another_process_writes_one_can_read_and_is_told_that_one_cannot_count(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_LOCK_SECONDS", 0.3)
    stats = SqliteStats(path, retention=DAY)
    await stats.record([event(0)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    recording = asyncio.create_task(stats.record([event(1)]))
    assert await asyncio.wait_for(counted(stats), 1) == 1
    with pytest.raises(StoreUnavailable):
        await recording
    with pytest.raises(StoreUnavailable):
        await stats.ping()
    other.execute("ROLLBACK")
    other.close()
    await stats.ping()
    assert (await stats.record([event(1)])).counted == 1
    await stats.close()


# ---- the file


async def test_a_file_says_which_layout_it_has(stats: SqliteStats, path: Path) -> None:
    ((version,),) = ask(path, "PRAGMA user_version")
    assert isinstance(version, int)
    assert (version // 1000, version % 1000) == (LAYOUT, 1)


async def test_a_newer_file_that_this_layout_can_use_is_used(path: Path) -> None:
    await SqliteStats(path, retention=DAY).close()
    ask(path, "ALTER TABLE links ADD COLUMN later TEXT")
    ask(path, f"PRAGMA user_version = {2000 + LAYOUT}")
    stats = SqliteStats(path, retention=DAY)
    assert (await stats.record([event(0)])).counted == 1
    await stats.close()


async def test_a_file_of_the_first_layout_is_brought_up_to_date_and_keeps_its_counts(path: Path) -> None:
    stats = SqliteStats(path, retention=DAY)
    await stats.record([event(0)])
    await stats.close()
    for later in ("requests", "progress"):
        ask(path, f"DROP TABLE {later}")
    ask(path, "PRAGMA user_version = 1001")
    stats = SqliteStats(path, retention=DAY)
    assert (await stats.record([event(0), event(1)])).counted == 1
    await stats.close()
    assert ask(path, "PRAGMA user_version") == [(2001,)]


async def test_a_newer_file_that_it_cannot_use_stops_the_start(path: Path) -> None:
    await SqliteStats(path, retention=DAY).close()
    ask(path, "PRAGMA user_version = 3003")
    with pytest.raises(WrongSetting, match=r"STATS_URL.*newer version"):
        SqliteStats(path, retention=DAY)


def test_a_file_of_something_else_stops_the_start_and_stays_as_it_was(path: Path) -> None:
    ask(path, "CREATE TABLE links (id TEXT)")
    before = path.read_bytes()
    with pytest.raises(WrongSetting, match=r"STATS_URL.*file of its own"):
        SqliteStats(path, retention=DAY)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_stops_the_start(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(WrongSetting, match="STATS_URL"):
        SqliteStats(path, retention=DAY)
    assert path.read_bytes() == b"Dear diary, " * 1000


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting, match="STATS_URL"):
        SqliteStats(tmp_path / "nowhere" / "stats.db", retention=DAY)


# ---- forgetting


async def test_quarters_are_kept_for_the_retention_and_totals_for_good(stats: SqliteStats) -> None:
    await stats.record([event(0, at=NOON - 29 * DAY), event(1, at=NOON - 32 * DAY)])
    await stats.tidy(NOON)
    assert sum((await stats.quarters("cat", NOON - 60 * DAY, NOON)).values()) == 1
    assert await counted(stats) == 2


async def test_foreign_ids_are_remembered_for_a_day(stats: SqliteStats, clock: Clock) -> None:
    await stats.record([event("foreign")])
    await stats.tidy(NOON + 24 * HOUR)
    assert (await stats.record([event("foreign")])).duplicates == 1
    await stats.tidy(NOON + 24 * HOUR + timedelta(microseconds=1))
    assert (await stats.record([event("foreign")])).counted == 1


async def test_an_epoch_is_remembered_for_14_days_after_its_last_event(stats: SqliteStats, clock: Clock) -> None:
    await stats.record([event(0, epoch="quiet"), event(0, epoch="busy")])
    clock.now = NOON + 10 * DAY
    await stats.record([event(1, epoch="busy")])
    await stats.tidy(NOON + 14 * DAY)
    assert (await stats.record([event(0, epoch="quiet"), event(0, epoch="busy")])).duplicates == 2

    await stats.tidy(NOON + 24 * DAY)
    assert (await stats.record([event(0, epoch="quiet"), event(0, epoch="busy")])).duplicates == 2
    await stats.tidy(NOON + 25 * DAY)
    assert (await stats.record([event(0, epoch="quiet"), event(1, epoch="busy")])).counted == 2


async def test_a_forgotten_epoch_leaves_no_bits_to_another(stats: SqliteStats, path: Path) -> None:
    await stats.record([event(seq, epoch=f"epoch {seq % 50}") for seq in range(100)])
    await stats.tidy(NOON + 15 * DAY)
    assert ask(path, "SELECT count(*) FROM epochs") == ask(path, "SELECT count(*) FROM blocks") == [(0,)]


async def test_nothing_that_is_past_stays_in_the_file(stats: SqliteStats, path: Path) -> None:
    await stats.record([event(0, visitor="ann"), event("foreign", visitor="bob")])
    await stats.tidy(NOON + 40 * DAY)
    left = {str(table): ask(path, f"SELECT count(*) FROM {table}") for (table,) in ask(path, TABLES)}
    assert {table for table, rows in left.items() if rows != [(0,)]} == {"links", "summary"}


TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


async def test_one_call_forgets_a_bounded_share(
    stats: SqliteStats, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_STEP_ROWS", 10)
    monkeypatch.setattr(sqlite, "_MOST_STEPS", 3)
    await stats.record([event(seq, visitor=f"visitor {seq}") for seq in range(100)])
    left = []
    for _ in range(4):
        await stats.tidy(NOON + 10 * DAY)
        left += ask(path, "SELECT count(*) FROM visitors")
    assert left == [(70,), (40,), (10,), (0,)]


async def test_requests_are_known_again_when_it_is_opened_again(path: Path, clock: Clock) -> None:
    for number, retries in enumerate((0, 1, 1)):
        stats = SqliteStats(path, retention=DAY, clock=clock)
        assert (await stats.record([requested(number, "r1")])).retries == retries
        await stats.close()
        clock.now += timedelta(minutes=4)
    stats = SqliteStats(path, retention=DAY, clock=clock)
    assert (await stats.record([requested(3, "r1")])).counted == 1, "12 minutes later"
    await stats.close()


async def test_requests_past_their_window_are_forgotten_in_memory_and_in_the_file(
    stats: SqliteStats, path: Path, clock: Clock
) -> None:
    await stats.record([requested(seq, f"r{seq}") for seq in range(100)])
    clock.now += timedelta(minutes=10)
    await stats.record([requested(100, "r100")])
    assert len(stats._requests._known) == 1
    await stats.tidy(clock.now)
    assert ask(path, "SELECT length(ids) FROM requests") == [(8,)]


async def test_a_request_whose_batch_failed_is_not_remembered(stats: SqliteStats, path: Path) -> None:
    ask(path, "CREATE TRIGGER no BEFORE INSERT ON quarters BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreUnavailable):
        await stats.record([requested(0, "r1")])
    ask(path, "DROP TRIGGER no")
    assert (await stats.record([requested(0, "r1")])).counted == 1


def requested(seq: int, request: str) -> AccessEvent:
    return AccessEvent(EventId("epoch", seq), "cat", NOON, request_id=request)


# ---- what it costs


async def test_a_full_block_needs_no_bits(stats: SqliteStats, path: Path) -> None:
    await stats.record([event(seq) for seq in range(3 * 4096 + 10)])
    assert ask(path, "SELECT block, length(bits) FROM blocks ORDER BY block") == [
        (0, None),
        (1, None),
        (2, None),
        (3, 512),
    ]


async def test_a_read_costs_the_same_after_ten_years(stats: SqliteStats, path: Path) -> None:
    await stats.record([event(0), event(1, "dog")])
    young = _steps(path, sqlite._OF, "cat"), _steps(path, sqlite._TOP, 2, 0)
    past = [NOON - n * DAY for n in range(3650)]
    await stats.record([event(2 + n, at=at, visitor="ann") for n, at in enumerate(past)])
    await stats.record([event(10_000 + n, f"code {n % 2000}") for n in range(2000)])
    assert (_steps(path, sqlite._OF, "cat"), _steps(path, sqlite._TOP, 2, 0)) == young


def _steps(path: Path, query: str, *values: object) -> int:
    """How many instructions of its own machine SQLite needs for the answer."""
    steps = 0

    def one_more() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = sqlite3.connect(path)
    connection.set_progress_handler(one_more, 1)
    rows: Sequence[object] = connection.execute(query, values).fetchall()
    connection.close()
    assert rows
    return steps
