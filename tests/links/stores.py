"""Stores of links on every kind of database, for the tests of this room."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from tests.backends.postgresql import Postgresql
from urlshortener.links import postgresql
from urlshortener.links.link import Draft
from urlshortener.links.postgresql_connector import Servers
from urlshortener.links.sql_store import SqlLinkStore
from urlshortener.links.store import ChangeListener

NOW = datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC)


def servers(database: str, *hosts: Postgresql, port: int | None = None) -> Servers:
    """The way to one database on these servers; `port` leads by a proxy in front of the first."""
    ways = tuple((host.host, port or host.port) for host in hosts)
    return Servers(ways, hosts[0].user, hosts[0].password, database)


def draft(code: str = "cat", target: str = "https://first.example/", **details: Any) -> Draft:
    """A draft of a chosen code, unless told otherwise."""
    details = {"id": uuid4(), "created_at": NOW, "code_was_chosen": True, **details}
    return Draft(code=code, target=target, **details)


def keyed(key: str, code: str, body: bytes = b"body", **details: Any) -> Draft:
    return draft(code, key=key, body_digest=body, **details)


@asynccontextmanager
async def opened(store: SqlLinkStore) -> AsyncIterator[SqlLinkStore]:
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def listening(store: SqlLinkStore) -> AsyncIterator["asyncio.Queue[str]"]:
    """What a listener of this store is told, as words and codes in their order."""
    told: asyncio.Queue[str] = asyncio.Queue()

    def connected(missed: Collection[str] | None) -> None:
        told.put_nowait("connected" if missed is None else f"connected, missed {','.join(sorted(missed))}")

    listener = ChangeListener(connected, lambda unheard_seconds: told.put_nowait("lost"), told.put_nowait)
    task = asyncio.create_task(store.listen(listener))
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait({task})


def later(seconds: float = 1) -> datetime:
    return NOW + timedelta(seconds=seconds)


def drawing(*codes: str) -> Callable[[], str]:
    """Draws these codes, one after the other."""
    left = iter(codes)
    return lambda: next(left)


def postgresql_store(way: Servers, draw: Callable[[], str]) -> SqlLinkStore:
    return SqlLinkStore(postgresql.PostgresqlDatabase(way), draw=draw)
