"""What the databases do with our statements when there are 50,000 links: they use the indexes that were made for them.

A database may walk through a table that is small, so this needs many rows to mean something.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.links.stores import NOW, later, opened, servers
from urlshortener.links import postgresql, sqlite
from urlshortener.links.link import Change
from urlshortener.links.schema import idempotency_keys, links
from urlshortener.links.sql_store import Database, SqlLinkStore
from urlshortener.links.store import PageMark

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
ROWS = 50_000
_SQLITE_NAMES = {"links_code_key": "sqlite_autoindex_links_2"}  # it numbers the indexes of constraints


class Noted:
    """A database that keeps every statement it is asked, and tells what it does for them."""

    nearby_is_primary = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sent: list[tuple[str, Any]] = []
        for name in ("insert", "among", "find", "is_current", "announce", "listen", "close"):
            setattr(self, name, getattr(database, name))

    async def read(self, work: Work[T]) -> T:
        return await self._database.read(lambda connection: self._noting(connection, work))

    async def read_nearby(self, work: Work[T]) -> T:
        return await self.read(work)

    async def write(self, work: Work[T]) -> T:
        return await self._database.write(lambda connection: self._noting(connection, work))

    async def plan(self) -> str:
        """How the first of the statements since the last plan is done."""
        text, values = self._sent[0]
        self._sent.clear()

        async def explain(connection: AsyncConnection) -> str:
            word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            lines = await connection.exec_driver_sql(f"{word} {text}", values)
            return "\n".join(str(line[-1]) for line in lines)

        return await self._database.read(explain)

    async def _noting(self, connection: AsyncConnection, work: Work[T]) -> T:
        def note(_: Any, __: Any, text: str, values: Any, *___: Any) -> None:
            if not text.startswith("BEGIN"):
                self._sent.append((text, values))

        sa.event.listen(connection.sync_connection, "before_cursor_execute", note)
        try:
            return await work(connection)
        finally:
            sa.event.remove(connection.sync_connection, "before_cursor_execute", note)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Noted]:
    """50,000 links, a tenth of them deleted, each with a key."""
    made: Database
    if request.param == "sqlite":
        await sqlite.migrate(tmp_path / "links.db")
        made = sqlite.SqliteDatabase(tmp_path / "links.db")
    else:
        server = request.getfixturevalue("postgresql")
        way = servers(server.fresh_database(), server)
        await postgresql.migrate(way)
        made = postgresql.PostgresqlDatabase(way)
    for first in range(0, ROWS, 10_000):
        await made.write(_filling(range(first, first + 10_000)))
    await made.write(_analysing)
    async with opened(SqlLinkStore(made)):
        yield Noted(made)


def _filling(numbers: range) -> Work[None]:
    async def work(connection: AsyncConnection) -> None:
        new = [
            {
                "id": UUID(int=number),
                "code": f"code{number}",
                "target": "https://example.com/",
                "created_at": later(number),
                "updated_at": later(number),
                "touched_at": NOW,
                "deleted_at": NOW if number % 10 == 0 else None,
            }
            for number in numbers
        ]
        keys = [
            {
                "owner": "",
                "key": f"key{number}",
                "link_id": UUID(int=number),
                "body_digest": b"",
                "created_at": later(number),
                "expires_at": later(number) + timedelta(days=30),
                "touched_at": NOW,
            }
            for number in numbers
        ]
        await connection.execute(sa.insert(links), new)
        await connection.execute(sa.insert(idempotency_keys), keys)

    return work


async def _analysing(connection: AsyncConnection) -> None:
    await connection.execute(sa.text("ANALYZE"))


async def test_every_statement_finds_its_rows_by_an_index(database: Noted) -> None:
    store = SqlLinkStore(database)  # type: ignore[arg-type]  # what it does not note, it borrows
    asked: list[tuple[str, str, Callable[[], Awaitable[Any]]]] = [
        ("a lookup of one code", "links_code_key", lambda: store.find_many(["code7"])),
        # for 500 codes PostgreSQL prefers to walk through a table of this size
        ("a lookup of many codes", "links_code_key", lambda: store.find_many([f"code{n}" for n in range(50)])),
        ("the first page", "links_newest", lambda: store.page(100)),
        (
            "a page in the middle",
            "links_newest",
            lambda: store.page(100, PageMark(later(ROWS / 2), UUID(int=ROWS // 2))),
        ),
        ("a change", "links_code_key", lambda: store.change("code7", Change(enabled=False), NOW)),
        ("a deletion", "links_code_key", lambda: store.delete("code8", NOW)),
        ("a sweep", "idempotency_keys_expires_at", lambda: store.forget_old_keys(NOW + timedelta(days=30), 100)),
    ]
    for name, index, ask in asked:
        await ask()
        plan = await database.plan()
        name_in_plan = index if index in plan else _SQLITE_NAMES.get(index, index)
        assert name_in_plan in plan, f"{name}: {plan}"
        assert not re.search(r"Seq Scan|\bSCAN links$", plan, re.MULTILINE), f"{name}: {plan}"
        assert name == "a sweep" or not re.search("Sort|TEMP B-TREE", plan), f"{name}: {plan}"
        print(f"\n{name}\n{plan}")
