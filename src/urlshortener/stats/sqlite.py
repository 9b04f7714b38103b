"""Counts in a SQLite file of their own: one writer, readers that never wait for it, durable before `record` returns."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from urlshortener.errors import StoreUnavailable
from urlshortener.events.event import AccessEvent, Progress
from urlshortener.stats.access import (
    DAYS_OPEN,
    EPOCHS_KEPT,
    FOREIGN_IDS_KEPT,
    Access,
    RequestMemory,
    access_of,
    day_of,
    instant,
    microseconds,
    quarters_between,
)
from urlshortener.stats.progress import Advance, Stretch, advances, done_of, drift_of
from urlshortener.stats.sqlite_file import opened
from urlshortener.stats.sqlite_once import (
    FirstTries,
    Requests,
    as_json,
    counted,
    courses_of,
    fresh_of,
    note_done,
    note_progress,
)
from urlshortener.stats.store import DRIFT_AFTER, Drift, LinkStats, Recorded, StatsPage

Answer = TypeVar("Answer")

_CALL_SECONDS = 5.0
_READERS = 2
# A batch goes through one temporary table, so that each thing that is counted is one statement. Many small
# statements would cost little alone, but each gives the interpreter lock away and has to win it back from a
# process that is busy answering visitors.
_FILL_FRESH = """
INSERT INTO fresh
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM json_each(?)
"""
_COUNT_FRESH = (
    """
    INSERT INTO links (code, access_count, bots, visitors, last_us)
    SELECT code, count(*), sum(bot), sum(visitor IS NOT NULL AND NOT EXISTS (
               SELECT 1 FROM visitors AS known
               WHERE known.day = fresh.day AND known.code = fresh.code AND known.visitor = fresh.visitor
           )), max(at_us)
    FROM fresh WHERE true GROUP BY code
    ON CONFLICT (code) DO UPDATE SET
        access_count = access_count + excluded.access_count, bots = bots + excluded.bots,
        visitors = visitors + excluded.visitors, last_us = max(last_us, excluded.last_us)
    """,
    "INSERT OR IGNORE INTO visitors SELECT day, code, visitor FROM fresh WHERE visitor IS NOT NULL ORDER BY 1, 2, 3",
    """
    INSERT INTO quarters (day, code, quarter, access_count)
    SELECT day, code, quarter, count(*) FROM fresh WHERE true GROUP BY day, code, quarter
    ON CONFLICT (day, code, quarter) DO UPDATE SET access_count = access_count + excluded.access_count
    """,
    "DELETE FROM fresh",
)

_COLUMNS = "code, access_count, bots, visitors, last_us"
_OF = f"SELECT {_COLUMNS} FROM links WHERE code = ?"  # noqa: S608
_TOP = f"""
SELECT {_COLUMNS} FROM links
JOIN (SELECT code FROM links ORDER BY access_count DESC, code LIMIT ? OFFSET ?) USING (code)
ORDER BY access_count DESC, code
"""  # noqa: S608
_QUARTERS = """
WITH RECURSIVE days (day) AS (
    SELECT max(?, (SELECT min(day) FROM quarters)) UNION ALL
    SELECT day + 1 FROM days WHERE day < min(?, (SELECT max(day) FROM quarters))
)
SELECT quarter, access_count FROM days JOIN quarters USING (day) WHERE code = ? AND quarter >= ? AND quarter < ?
"""

_STEP_ROWS = 2_000  # some milliseconds in which nothing else is written
_STEP_EPOCHS = 20
_MOST_STEPS = 25  # of one kind in one call of tidy


class SqliteStats:
    """A StatsStore in the file at `path`, which is made if there is none. The file belongs to one process.

    Writing has one thread with the one connection that writes; what is asked has others, and sees the last commit.
    Raises WrongSetting if the file is something else, or from a version that this one cannot work with.
    """

    grace_seconds = 0.0  # a commit is on the disk before record() returns
    generation = 0

    def __init__(
        self,
        path: Path,
        *,
        retention: timedelta,
        requests: RequestMemory = RequestMemory(),  # noqa: B008 (a frozen value)
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._retention = retention
        self._clock = clock
        self._writer, self._readers = opened(path, _READERS)
        self._requests = Requests(requests, self._writer, microseconds(clock()))
        self._free_readers: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for reader in self._readers:
            self._free_readers.put(reader)
        self._writing = ThreadPoolExecutor(1, "stats-writer")
        self._reading = ThreadPoolExecutor(_READERS, "stats-reader")

    async def record(self, batch: Sequence[AccessEvent], progress: Sequence[Progress] = ()) -> Recorded:
        advanced = advances(batch, progress)
        return await _within_limit(self._writing, lambda: self._record([access_of(event) for event in batch], advanced))

    def _record(self, accesses: Sequence[Access], advanced: Sequence[Advance]) -> Recorded:
        now_us = microseconds(self._clock())

        def count(connection: sqlite3.Connection) -> tuple[list[Access], FirstTries]:
            note_progress(connection, advanced, now_us // 1_000_000)
            return self._count_once(connection, accesses, now_us)

        fresh, first = _transaction(self._writer, count)
        self._requests.committed(first, now_us)
        retries = len(fresh) - len(first.tries)
        return Recorded(len(first.tries), len(accesses) - len(fresh), retries, first.unremembered)

    def _count_once(
        self, connection: sqlite3.Connection, accesses: Sequence[Access], now_us: int
    ) -> tuple[list[Access], FirstTries]:
        fresh = fresh_of(connection, accesses, now_us)
        first = self._requests.first_tries(fresh, now_us)
        if first.tries:
            first.write(connection, now_us)
            _count(connection, first.tries)
        return fresh, first

    async def of(self, code: str) -> LinkStats | None:
        rows = await self._read(_OF, code)
        return _link_stats(*rows[0]) if rows else None

    async def top(self, limit: int, offset: int) -> StatsPage:
        return await self._ask(lambda connection: _page(connection, limit, offset))

    async def quarters(self, code: str, start: datetime, end: datetime) -> Mapping[int, int]:
        wanted = quarters_between(start, end)
        if not wanted:
            return {}
        rows = await self._read(_QUARTERS, day_of(start), day_of(end), code, wanted.start, wanted.stop)
        return dict(rows)

    async def drift(self, older_than: timedelta = DRIFT_AFTER) -> Sequence[Drift]:
        now = microseconds(self._clock()) // 1_000_000
        return await drift_of(await self._ask(courses_of), self._counted, now, older_than)

    async def _counted(self, stretches: Sequence[Stretch]) -> list[int]:
        return await self._ask(lambda connection: counted(connection, stretches))

    async def tidy(self, now: datetime) -> None:
        first_open_day = day_of(now - DAYS_OPEN)
        await self._write(lambda connection: _close_days(connection, first_open_day))
        await self._in_steps(_forget_visitors, first_open_day)
        await self._in_steps(_forget_quarters, day_of(now - self._retention))
        await self._in_steps(_forget_foreign_ids, microseconds(now - FOREIGN_IDS_KEPT))
        await self._in_steps(_forget_epochs, microseconds(now - EPOCHS_KEPT))
        await self._write(lambda connection: self._requests.forget(connection, microseconds(now)))
        done = await done_of(await self._ask(courses_of), self._counted)
        await self._write(lambda connection: note_done(connection, done, microseconds(now) // 1_000_000))

    async def ping(self) -> None:
        await self._write(_change_nothing)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for executor in (self._reading, self._writing):
            executor.shutdown()
        for connection in (*self._readers, self._writer):  # the writer last: it empties the log into the file
            connection.close()

    async def _in_steps(self, forget: Callable[[sqlite3.Connection, int], bool], before: int) -> None:
        """Short transactions, so that events are counted in between; what is left waits for the next call."""
        for _ in range(_MOST_STEPS):
            if not await self._write(lambda connection: forget(connection, before)):
                return

    async def _write(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Do the work in one transaction. It ends by itself, whatever becomes of the caller."""
        return await _within_limit(self._writing, lambda: _transaction(self._writer, work))

    async def _read(self, query: str, *values: object) -> list[Any]:
        return await self._ask(lambda connection: connection.execute(query, values).fetchall())

    async def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        return await _within_limit(self._reading, lambda: self._with_reader(question))

    def _with_reader(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        connection = self._free_readers.get_nowait()  # as many as threads
        try:
            return question(connection)
        finally:
            self._free_readers.put(connection)


async def _within_limit(executor: ThreadPoolExecutor, work: Callable[[], Answer]) -> Answer:
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(executor, work)
    except (sqlite3.Error, TimeoutError) as error:
        raise StoreUnavailable("The counts cannot be reached.") from error


# ---- counting


def _transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
    """All of the work, durably, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        answer = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some failures have rolled back already
            connection.execute("ROLLBACK")
        raise
    return answer


def _count(connection: sqlite3.Connection, fresh: Sequence[Access]) -> None:
    (first_open_day,) = connection.execute("SELECT first_open_day FROM summary").fetchone()
    connection.execute(_FILL_FRESH, (as_json(list(_rows(fresh, first_open_day))),))
    for statement in _COUNT_FRESH:
        connection.execute(statement)


def _rows(fresh: Iterable[Access], first_open_day: int) -> Iterable[tuple[str, int, int, int, bool, int | None]]:
    """What goes into the table `fresh`: a visitor stands in the first row of his day and link only."""
    met: set[tuple[int, str, bytes]] = set()
    for access in fresh:
        visitor, day = access.visitor, access.day
        if visitor is not None and (day < first_open_day or (day, access.code, visitor) in met):
            visitor = None
        if visitor is not None:
            met.add((day, access.code, visitor))
        yield access.code, access.quarter, day, access.at_us, access.bot, _as_integer(visitor)


def _as_integer(visitor: bytes | None) -> int | None:
    return None if visitor is None else int.from_bytes(visitor, "big", signed=True)


# ---- showing


def _link_stats(code: str, access_count: int, bots: int, visitors: int, last_us: int) -> LinkStats:
    return LinkStats(code, access_count, bots, visitors, instant(last_us))


def _page(connection: sqlite3.Connection, limit: int, offset: int) -> StatsPage:
    rows = connection.execute(_TOP, (limit, offset)).fetchall()
    (total,) = connection.execute("SELECT total FROM summary").fetchone()
    return StatsPage([_link_stats(*row) for row in rows], total)


def _change_nothing(connection: sqlite3.Connection) -> None:
    """A write all the same: for those who count, a disk that takes no more does not answer."""
    connection.execute("UPDATE summary SET total = total")


# ---- forgetting: each step is short, and True while it may not have been the last


def _close_days(connection: sqlite3.Connection, first_open_day: int) -> None:
    """From now on visitors of earlier days are not counted, so that those who were need not be remembered."""
    connection.execute(
        "UPDATE summary SET first_open_day = ? WHERE first_open_day < ?", (first_open_day, first_open_day)
    )


def _forget_visitors(connection: sqlite3.Connection, first_open_day: int) -> bool:
    return _delete_some(connection, "visitors", "(day, code, visitor)", "day < ?", first_open_day)


def _forget_quarters(connection: sqlite3.Connection, first_kept_day: int) -> bool:
    return _delete_some(connection, "quarters", "(day, code, quarter)", "day < ?", first_kept_day)


def _forget_foreign_ids(connection: sqlite3.Connection, before_us: int) -> bool:
    return _delete_some(connection, "foreign_ids", "id", "counted_us < ?", before_us)


def _forget_epochs(connection: sqlite3.Connection, before_us: int) -> bool:
    """Whole epochs, so that one that comes back after all is either known completely or not at all."""
    old = connection.execute("SELECT id FROM epochs WHERE last_us < ? LIMIT ?", (before_us, _STEP_EPOCHS)).fetchall()
    connection.executemany("DELETE FROM blocks WHERE epoch_id = ?", old)
    connection.executemany("DELETE FROM epochs WHERE id = ?", old)
    return len(old) == _STEP_EPOCHS


def _delete_some(connection: sqlite3.Connection, table: str, key: str, condition: str, before: int) -> bool:
    some = f"SELECT {key.strip('()')} FROM {table} WHERE {condition} LIMIT {_STEP_ROWS}"  # noqa: S608
    return connection.execute(f"DELETE FROM {table} WHERE {key} IN ({some})", (before,)).rowcount == _STEP_ROWS  # noqa: S608
