"""Links in PostgreSQL, with connections that know failover.

A primary may be killed, hang, be demoted or come back elsewhere at any moment. So every connection is made by
ourselves: each host has its own limit, the last good one is asked first, and its role is looked at. Whatever says
that the primary has moved makes all older connections of that pool stale. What a statement may take is kept by a
timer that terminates the connection; nothing here ever cancels a statement (errands.py says why).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from sqlalchemy import ColumnElement, Table, any_, bindparam, func, literal, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.event import listen as on
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.types import TypeEngine

from urlshortener.errors import OutcomeUnknown, StoreUnavailable
from urlshortener.links import migrations
from urlshortener.links.errands import Errands
from urlshortener.links.link import Link
from urlshortener.links.migrations import MigrationOutcome
from urlshortener.links.postgresql_connector import DRIVER_ERRORS, Connector, Driver, NoServer, Role, Servers, sqlstate
from urlshortener.links.postgresql_listening import CHANNEL, Listening
from urlshortener.links.schema import UtcTime, links
from urlshortener.links.sql_store import RowRefused, SqlLinkStore, links_where
from urlshortener.links.sql_traces import trace_statements
from urlshortener.links.store import ChangeListener
from urlshortener.telemetry import (
    DATABASE_CONNECTIONS_MOST,
    DATABASE_CONNECTIONS_USED,
    DATABASE_FAILOVERS,
    DATABASE_RETRIES,
    LOG,
    is_tracing,
    statement_told,
)

T = TypeVar("T")

PREPARE_SECONDS = 1.5  # for what SQLAlchemy asks of a new connection
ACQUIRE_SECONDS = 1.0
READ_SECONDS = 0.9
# A commit waits for its standby, and how long says only the failover. Terminated earlier, it is tried again with the
# same identity; later, the request that waits has had its 8 s.
WRITE_SECONDS = 6.0
WRITE_ANSWER_SECONDS = 7.0
FIND_PRIMARY_SECONDS = 3.0
SETTLE_SECONDS = 10.0

WRITE_CONNECTIONS = 4  # so few can hang in a commit
READ_CONNECTIONS = 8
REPLICA_SECONDS = 300  # then a reader looks for a replica again, if only the primary was there

# Nothing, where this is no replica that receives: not to be believed are a primary that was replaced and does not know
# it, and a replica that has more than its new primary, and so nothing to receive.
_REPLAYED = text(
    "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn WHERE pg_is_in_recovery() AND EXISTS (TABLE pg_stat_wal_receiver)"
)

MIGRATION_LOCK = 7_263_016_405_511_870  # any number, always the same

_MOVED = ("25006", "57P01", "57P02", "57P03")  # read-only; terminated; crashed; starting or stopping
_IN_EACH_OTHERS_WAY = ("40001", "40P01")
_REFUSED_CLASSES = ("22", "23")  # a value it cannot take; a constraint


def open_store(servers: Servers, read_servers: Servers | None = None) -> SqlLinkStore:
    """Links in this database, read from replicas where they are told. Connects when it is first asked."""
    return SqlLinkStore(PostgresqlDatabase(servers, read_servers))


async def migrate(servers: Servers) -> MigrationOutcome:
    """Make the tables, or bring them up to date. Several may do so at once: one works, the others wait for it."""
    pool = _Pool("migrate", servers, Role.PRIMARY, 1, {"lock_timeout": "60s"})
    try:
        return await pool.migrate()
    except _TryAgain as error:
        raise StoreUnavailable(f"The database of links cannot be used: {error.reason}.") from error
    finally:
        await pool.close()


class PostgresqlDatabase:
    """The Database over PostgreSQL: three pools, so that no hanging commit keeps a reader waiting."""

    def __init__(self, servers: Servers, read_servers: Servers | None = None) -> None:
        self.nearby_is_primary = read_servers is None
        limits = {"statement_timeout": "5s", "lock_timeout": "3s", "idle_in_transaction_session_timeout": "10s"}
        self._writers = _Pool("write", servers, Role.PRIMARY, WRITE_CONNECTIONS, limits)
        self._readers = _Pool("read", servers, Role.PRIMARY, READ_CONNECTIONS, _READING, autocommit=True)
        self._nearby = self._readers
        if read_servers is not None:
            # in transactions, so that a pooler asks one server for where it is and for the rows
            self._nearby = _Pool("replica", read_servers, Role.REPLICA_IF_ANY, READ_CONNECTIONS, _READING)
        self._errands = Errands()
        self._listening = Listening(servers)

    def insert(self, table: Table, columns: Sequence[str]) -> postgresql.Insert:
        # One array for each column: one statement whatever the number of rows, and no work for each value.
        arrays = [bindparam(f"all_{name}", type_=postgresql.ARRAY(_as_sent(table.c[name]))) for name in columns]
        new = func.unnest(*arrays).table_valued(*columns, name="new").render_derived()
        return postgresql.insert(table).from_select(list(columns), select(*new.c))

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        return {f"all_{name}": column for name, column in zip(columns, zip(*rows, strict=True), strict=True)}

    def among(self, column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
        # one statement whatever the number, so that it is prepared once
        return column == any_(literal(list(values), postgresql.ARRAY(column.type)))

    async def find(self, connection: AsyncConnection, codes: Collection[str]) -> Iterable[Link]:
        return await links_where(connection, self.among(links.c.code, codes))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        late = OutcomeUnknown("The database of links did not answer in time: the outcome is not known.")
        return await self._errands.run(
            _again(self._writers, work, WRITE_SECONDS, FIND_PRIMARY_SECONDS),
            within_seconds=WRITE_ANSWER_SECONDS,
            late=late,
        )

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await self._read(self._readers, work)

    async def read_nearby(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await self._read(self._nearby, work)

    async def _read(self, pool: "_Pool", work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        late = StoreUnavailable("The database of links did not answer in time.")
        reading = _again(pool, work, READ_SECONDS, READ_SECONDS)
        return await self._errands.run(reading, within_seconds=READ_SECONDS, late=late)

    async def is_current(self, connection: AsyncConnection) -> bool:
        if self.nearby_is_primary:
            return True
        told = self._listening.position
        if told is None:
            return False
        replayed = (await connection.execute(_REPLAYED)).scalar()  # before the rows are: these have at least as much
        return replayed is not None and replayed >= told

    async def announce(self, connection: AsyncConnection, code: str) -> None:
        await connection.execute(select(func.pg_notify(CHANNEL, code)))

    async def listen(self, listener: ChangeListener) -> None:
        await self._listening.tell(listener)

    async def close(self) -> None:
        await self._errands.settle(SETTLE_SECONDS)
        for pool in {self._writers, self._readers, self._nearby}:
            await pool.close()


def _as_sent(column: ColumnElement[Any]) -> TypeEngine[Any]:
    """A column's type without what SQLAlchemy would do to each value: the driver takes times in any zone."""
    return postgresql.TIMESTAMP(timezone=True) if isinstance(column.type, UtcTime) else column.type


_READING = {"statement_timeout": "900ms", "default_transaction_read_only": "on"}


class _TryAgain(Exception):
    """Nothing was done, and another connection may do it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _again(
    pool: "_Pool", work: Callable[[AsyncConnection], Awaitable[T]], attempt_seconds: float, patience_seconds: float
) -> T:
    """Do the work, on another connection where one was lost before anything was done."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + patience_seconds
    pause_seconds = 0.0
    while True:
        try:
            return await pool.attempt(work, attempt_seconds)
        except _TryAgain as error:
            if clock() + pause_seconds >= give_up_at:
                raise StoreUnavailable("The database of links cannot be reached.") from error
            DATABASE_RETRIES.labels(error.reason).inc()
        await asyncio.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311
        pause_seconds = min(0.02 + 2 * pause_seconds, 0.25)


class _Pool:
    """A few connections to servers in one role."""

    def __init__(
        self, name: str, servers: Servers, role: Role, size: int, limits: dict[str, str], *, autocommit: bool = False
    ) -> None:
        self._name = name
        self._connector = Connector(servers, role, limits)
        self._generation = 0  # grows when the primary has moved: connections of an older one are stale
        self._preparing: dict[Driver, asyncio.TimerHandle] = {}
        self._doubtful: set[Driver] = set()
        self._engine = self._make_engine(size, autocommit, REPLICA_SECONDS if role is Role.REPLICA_IF_ANY else -1)

    def _make_engine(self, size: int, autocommit: bool, recycle_seconds: int) -> AsyncEngine:
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=size,
            max_overflow=0,
            pool_timeout=ACQUIRE_SECONDS,
            pool_recycle=recycle_seconds,
            **options,
        )
        trace_statements(engine, "postgresql")
        DATABASE_CONNECTIONS_MOST.labels(self._name).set(size)
        DATABASE_CONNECTIONS_USED.labels(self._name).set_function(_in_use(engine))
        on(engine.sync_engine, "connect", self._made)
        on(engine.sync_engine, "checkout", self._checked_out)
        return engine

    async def _connect(self) -> Driver:
        driver = await self._connector.connect()
        driver.add_log_listener(self._noticed)
        if is_tracing():
            driver.add_query_logger(_told)  # of BEGIN, COMMIT and whatever else does not go through the engine
        self._preparing[driver] = asyncio.get_running_loop().call_later(PREPARE_SECONDS, self._overdue, driver)
        return driver

    def _overdue(self, driver: Driver) -> None:
        del self._preparing[driver]
        driver.terminate()

    def _made(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["generation"] = self._generation

    def _checked_out(self, connection: Any, entry: ConnectionPoolEntry, _: object) -> None:
        driver: Driver = connection.driver_connection
        if timer := self._preparing.pop(driver, None):
            timer.cancel()
        if driver.is_closed() or entry.info["generation"] != self._generation:
            driver.terminate()
            raise DisconnectionError

    def _noticed(self, driver: Any, message: Any) -> None:
        # A commit that stopped waiting for its standby says so in a warning, and then reports success.
        if message.sqlstate == "01000":
            self._doubtful.add(driver)

    def _drop(self, generation: int) -> None:
        """All connections of this generation are stale; those in use find out by themselves."""
        if generation == self._generation:
            self._generation += 1
            DATABASE_FAILOVERS.labels(self._name).inc()

    async def attempt(self, work: Callable[[AsyncConnection], Awaitable[T]], seconds: float) -> T:
        """Do the work in one transaction, once.

        Raises _TryAgain if nothing was done, OutcomeUnknown if nobody knows, StoreUnavailable, RowRefused.
        """
        connection, driver = await self._acquire()
        generation = self._generation
        limit = asyncio.get_running_loop().call_later(seconds, driver.terminate)
        is_committing = False
        try:
            result = await work(connection)
            is_committing = True
            self._doubtful.discard(driver)
            await connection.commit()
            if driver in self._doubtful:
                raise OutcomeUnknown("The standby did not confirm: the outcome is not known.")
            return result
        except DRIVER_ERRORS as error:
            self._judge(error, driver, generation, is_committing)
        finally:
            self._doubtful.discard(driver)
            await _give_back(connection, driver)
            limit.cancel()

    async def _acquire(self) -> tuple[AsyncConnection, Driver]:
        try:
            connection = await self._engine.connect()
        except NoConnectionFree as error:
            raise StoreUnavailable("The database of links is too busy.") from error
        except (NoServer, *DRIVER_ERRORS) as error:
            raise _TryAgain("unreachable") from error
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        return connection, driver

    def _judge(self, error: Exception, driver: Driver, generation: int, is_committing: bool) -> NoReturn:
        """Say in our words what a driver's error means for the caller."""
        state = sqlstate(error)
        if driver.is_closed() or state in _MOVED or state.startswith("08") or isinstance(error, OSError):
            self._drop(generation)
            driver.terminate()
            if is_committing:
                raise OutcomeUnknown("The connection was lost in a commit: the outcome is not known.") from error
            raise _TryAgain("moved" if state in _MOVED else "connection lost") from error
        if state in _IN_EACH_OTHERS_WAY:
            raise _TryAgain("deadlock") from error
        if state.startswith(_REFUSED_CLASSES):
            raise RowRefused from error
        LOG.error("database_refused", extra={"sqlstate": state or "none"})
        raise StoreUnavailable("The database of links does not answer as it should.") from error

    async def migrate(self) -> MigrationOutcome:
        connection, driver = await self._acquire()
        try:
            await connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            outcome = await connection.run_sync(migrations.upgrade)
            await connection.commit()
            return outcome
        except DRIVER_ERRORS as error:
            self._judge(error, driver, self._generation, is_committing=False)
        finally:
            await _give_back(connection, driver)

    async def close(self) -> None:
        await self._engine.dispose()


def _told(query: Any) -> None:
    statement_told("postgresql", query.query, query.elapsed, query.exception)


def _in_use(engine: AsyncEngine) -> Callable[[], float]:
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout


async def _give_back(connection: AsyncConnection, driver: Driver) -> None:
    try:
        if not driver.is_closed():
            await connection.rollback()
    except DRIVER_ERRORS:
        driver.terminate()
    if driver.is_closed():
        await connection.invalidate()
    await connection.close()
