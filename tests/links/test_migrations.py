"""The schema through time: on both databases, by several at once, and older code on a newer schema."""

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.links.stores import draft, opened, servers
from urlshortener.errors import StoreUnavailable
from urlshortener.links import postgresql, sqlite
from urlshortener.links.link import Link
from urlshortener.links.migrations import MigrationOutcome
from urlshortener.links.postgresql_connector import Servers
from urlshortener.links.schema import metadata
from urlshortener.links.sql_store import Database, SqlLinkStore

T = TypeVar("T")
NEWEST = "0002"


class Place:
    """An empty database that can be migrated and opened."""

    def __init__(self, migrate: Callable[[], Awaitable[MigrationOutcome]], connect: Callable[[], Database]) -> None:
        self.migrate = migrate
        self.connect = connect

    async def do(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        connections = self.connect()
        try:
            return await connections.write(work)
        finally:
            await connections.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        path = tmp_path / "new folder" / "links.db"
        return Place(lambda: sqlite.migrate(path), lambda: sqlite.SqliteDatabase(path))
    way = servers(request.getfixturevalue("database"), request.getfixturevalue("postgresql"))
    return Place(lambda: postgresql.migrate(way), lambda: postgresql.PostgresqlDatabase(way))


async def test_an_empty_database_is_brought_to_the_newest_schema_once(place: Place) -> None:
    first = await place.migrate()
    assert first == MigrationOutcome(None, NEWEST)
    assert str(first) == f"The links database was brought from nothing to {NEWEST}."
    second = await place.migrate()
    assert second == MigrationOutcome(NEWEST, NEWEST)
    assert str(second) == f"The links database is at {NEWEST} already. Nothing was changed."


async def test_three_may_migrate_at_once_and_one_does_the_work(place: Place) -> None:
    outcomes = await asyncio.gather(*(place.migrate() for _ in range(3)))
    assert sorted(outcome.found or "" for outcome in outcomes) == ["", NEWEST, NEWEST]


async def test_a_newer_database_is_left_alone_and_can_be_used(place: Place) -> None:
    await place.migrate()

    async def another_version_was_here(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(sa.text("ALTER TABLE links ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'"))

    await place.do(another_version_was_here)
    outcome = await place.migrate()
    assert outcome.database_is_newer
    assert str(outcome) == "The links database is at 9999, newer than this version knows. Nothing was changed."
    async with opened(SqlLinkStore(place.connect())) as store:
        (made,) = await store.add_many([draft()])
        assert isinstance(made, Link)
        assert await store.find_many(["cat"]) == {"cat": made}


async def test_the_migrations_make_what_the_tables_say(place: Place) -> None:
    await place.migrate()

    def differences(connection: sa.Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    assert await place.do(lambda connection: connection.run_sync(differences)) == []


async def test_a_database_that_is_away_stops_the_migration_in_our_words() -> None:
    away = Servers((("127.0.0.1", 1),), "app", "secret", "links")
    with pytest.raises(StoreUnavailable):
        await postgresql.migrate(away)


def test_the_wheel_holds_the_migrations(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=root, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for script in (root / "src/urlshortener/links/migrations").rglob("*.py"):
        assert str(script.relative_to(root / "src")) in names
