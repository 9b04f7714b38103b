"""Links in one SQLite file, which belongs to one process.

One connection writes, several read beside it (WAL). A commit is on the disk before it is answered.
"""

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import URL, ColumnElement, Connection, Table, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from urlshortener.errors import OutcomeUnknown, StoreUnavailable, WrongSetting
from urlshortener.links import migrations
from urlshortener.links.errands import Errands
from urlshortener.links.link import Link
from urlshortener.links.migrations import MigrationOutcome
from urlshortener.links.schema import links
from urlshortener.links.sql_store import RowRefused, SqlLinkStore, links_where
from urlshortener.links.sql_traces import trace_statements
from urlshortener.links.store import ChangeListener
from urlshortener.telemetry import LOG

T = TypeVar("T")

READERS = 4
ACQUIRE_SECONDS = 2.0
BUSY_SECONDS = 2.0
MIGRATE_BUSY_SECONDS = 30.0
READ_SECONDS = 4.0
WRITE_SECONDS = 6.0
SETTLE_SECONDS = 10.0


# All links come in one row: for each row the driver lets go of the interpreter's lock and takes it again, and the loop,
# which answers visitors meanwhile, is interrupted each time. And it is one statement, however many codes are wanted.
_FIND = text(
    """
    SELECT json_group_array(json_object(
        'id', id, 'code', code, 'target', target, 'created_at', created_at || 'Z', 'updated_at', updated_at || 'Z',
        'expires_at', expires_at || 'Z', 'enabled', json(iif(enabled, 'true', 'false')),
        'deleted_at', deleted_at || 'Z', 'version', version
    ))
    FROM links WHERE code IN (SELECT value FROM json_each(:codes))
    """
)
_found = msgspec.json.Decoder(list[Link]).decode


def open_store(path: Path) -> SqlLinkStore:
    """The links in this file, which nobody else may have open as a store: else WrongSetting. `migrate` comes first."""
    return SqlLinkStore(SqliteDatabase(path))


async def migrate(path: Path) -> MigrationOutcome:
    """Make the file and its tables, or bring them up to date. Several may do so at once."""
    _make_folder(path)
    engine = _engine(path, 1, MIGRATE_BUSY_SECONDS)
    _begin_to_write(engine)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(migrations.upgrade)
    except DBAPIError as error:
        raise _unavailable(error) from error
    finally:
        await engine.dispose()


class SqliteDatabase:
    """The Database over one file."""

    nearby_is_primary = True

    def __init__(self, path: Path) -> None:
        _make_folder(path)
        self._lock = _lock(path)
        self._writer = _engine(path, 1, BUSY_SECONDS)
        _begin_to_write(self._writer)
        self._readers = _engine(path, READERS, BUSY_SECONDS, "PRAGMA query_only=ON")
        self._errands = Errands()
        self._listeners: list[ChangeListener] = []

    def insert(self, table: Table, columns: Sequence[str]) -> sqlite.Insert:
        return sqlite.insert(table)  # its rows tell which columns

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def among(self, column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
        return column.in_(values)

    async def find(self, connection: AsyncConnection, codes: Collection[str]) -> Iterable[Link]:
        wanted = {"codes": msgspec.json.encode(codes).decode()}
        try:
            return _found((await connection.execute(_FIND, wanted)).scalar_one())
        except msgspec.ValidationError:
            # Somebody wrote a time otherwise than we do: the long way reads more of them.
            return await links_where(connection, self.among(links.c.code, codes))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        late = OutcomeUnknown("The disk did not answer in time: the outcome is not known.")
        return await self._errands.run(self._write(work), within_seconds=WRITE_SECONDS, late=late)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        try:
            async with self._writer.connect() as connection:
                result = await work(connection)
                announced: list[str] = connection.info.pop("announced", [])
                await connection.commit()
        except (
            DataError,
            IntegrityError,
            InterfaceError,
            ProgrammingError,
            UnicodeEncodeError,
            OverflowError,
        ) as error:
            raise RowRefused from error
        except (DBAPIError, NoConnectionFree) as error:
            raise _unavailable(error) from error
        for code in announced:
            for listener in self._listeners:
                listener.changed(code)
        return result

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        late = StoreUnavailable("The database of links did not answer in time.")
        return await self._errands.run(self._read(work), within_seconds=READ_SECONDS, late=late)

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        try:
            async with self._readers.connect() as connection:
                return await work(connection)
        except (DBAPIError, NoConnectionFree) as error:
            raise _unavailable(error) from error

    async def read_nearby(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await self.read(work)

    async def is_current(self, connection: AsyncConnection) -> bool:
        return True

    async def announce(self, connection: AsyncConnection, code: str) -> None:
        connection.info.setdefault("announced", []).append(code)

    async def listen(self, listener: ChangeListener) -> None:
        self._listeners.append(listener)
        listener.connected(None)
        try:
            await asyncio.Event().wait()  # all changes are this process's own: nothing can be missed
        finally:
            self._listeners.remove(listener)

    async def close(self) -> None:
        await self._errands.settle(SETTLE_SECONDS)
        await self._writer.dispose()
        await self._readers.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongSetting(f"LINKS_URL: {path.parent} cannot be a folder ({type(error).__name__}).") from None


def _lock(path: Path) -> int | None:
    """Held for life: a second process would not hear of the first one's changes."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WrongSetting(f"LINKS_URL: {path.parent} cannot be written to ({type(error).__name__}).") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise WrongSetting(f"LINKS_URL: {path} is in use already. What two processes share is PostgreSQL.") from None
    return lock


def _engine(path: Path, size: int, busy_seconds: float, *pragmas: str) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": busy_seconds},  # None: we say ourselves where one begins
        pool_size=size,
        max_overflow=0,
        pool_timeout=ACQUIRE_SECONDS,
    )

    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        _turn_to_wal(cursor)
        for pragma in ("PRAGMA synchronous=FULL", *pragmas):
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine.sync_engine, "connect", prepare)
    trace_statements(engine, "sqlite")
    return engine


def _turn_to_wal(cursor: Any) -> None:
    """The first time it takes the whole file for a moment, and whoever else turns then is refused without a wait."""
    for _ in range(200):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA journal_mode=WAL")


def _begin_to_write(engine: AsyncEngine) -> None:
    """Take the lock at the beginning: a transaction that reads first and writes later could not be waited for."""

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "begin", begin)


def _unavailable(error: Exception) -> StoreUnavailable:
    reason = error.orig if isinstance(error, DBAPIError) else error
    LOG.error("database_away", extra={"reason": getattr(reason, "sqlite_errorname", type(reason).__name__)})
    return StoreUnavailable("The database of links does not answer.")
