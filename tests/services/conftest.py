"""Both main doors over real files, with a clock that stands still and a spool that tells what it was given."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from starlette.types import ASGIApp

from urlshortener.events.event import AccessEvent, Plain
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links import sqlite
from urlshortener.links.directory import Directory
from urlshortener.services.analytics import analytics_app
from urlshortener.services.http import Readiness
from urlshortener.services.shortener import shortener_app
from urlshortener.stats.sqlite import SqliteStats

RETENTION = timedelta(days=400)


class Clock:
    """The time, which moves only when a test says so."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


@dataclass
class Appended:
    """What a redirect had written of an access."""

    code: str
    at: datetime
    user_agent: str | None
    ip_address: str | None
    referer: str | None
    visitor: str | None
    request_id: str | None = None
    traceparent: str | None = None


@dataclass
class ToldSpool:
    """Stands where the spool stands; a test decides when the disk has what it was given."""

    appended: list[Appended] = field(default_factory=list)
    is_slow: bool = False
    futures: list[asyncio.Future[None]] = field(default_factory=list)

    def append(self, *access: Any) -> asyncio.Future[None]:
        self.appended.append(Appended(*access))
        return self._future()

    def append_plain(self, at: datetime, accesses: Sequence[Plain]) -> asyncio.Future[None]:
        for code, user_agent, ip_address, referer, visitor, _ in accesses:
            agent, address, source = map(msgspec.json.decode, (user_agent, ip_address, referer))
            self.appended.append(Appended(code.decode(), at, agent, address, source, visitor.decode()))
        return self._future()

    def _future(self) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        if not self.is_slow:
            future.set_result(None)
        return future


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of links that is up to date, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("links") / "links.db"
    asyncio.run(sqlite.migrate(path))
    return path


@asynccontextmanager
async def open_directory(migrated: Path, folder: Path) -> AsyncIterator[Directory]:
    shutil.copy(migrated, folder / "links.db")
    store = sqlite.open_store(folder / "links.db")
    directory = Directory(store, cache_max_bytes=1 << 20, warm_links=0, stale_max=timedelta(hours=1))
    await directory.start()
    try:
        yield directory
    finally:
        await directory.stop()
        await store.close()


@pytest.fixture
async def directory(migrated: Path, tmp_path: Path) -> AsyncIterator[Directory]:
    async with open_directory(migrated, tmp_path) as directory:
        yield directory


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool() -> ToldSpool:
    return ToldSpool()


@pytest.fixture
def readiness() -> Readiness:
    return Readiness({"links": lambda: "ok"})


def make_shortener(
    directory: Any, spool: ToldSpool | Spool, clock: Clock, readiness: Readiness, **settings: Any
) -> ASGIApp:
    return shortener_app(
        directory,
        cast(Spool, spool),
        Visitors("a-secret-of-sixteen", False),
        readiness,
        now=clock,
        trusted_proxies=(ip_network("10.0.0.0/8"),),
        **settings,
    )


def asking(app: ASGIApp, peer: str = "203.0.113.7") -> httpx.AsyncClient:
    """A client whose connection comes from that address."""
    transport = httpx.ASGITransport(app, client=(peer, 50000))
    return httpx.AsyncClient(transport=transport, base_url="http://s.example")


@pytest.fixture
async def shortener(
    directory: Directory, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(make_shortener(directory, spool, clock, readiness)) as client:
        yield client


@pytest.fixture
async def stats(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStats]:
    store = SqliteStats(tmp_path / "stats.db", retention=RETENTION, clock=clock)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def analytics(
    stats: SqliteStats, directory: Directory, clock: Clock, readiness: Readiness
) -> AsyncIterator[httpx.AsyncClient]:
    app = analytics_app(stats, directory.follow, readiness, now=clock, series_retention=RETENTION)
    async with asking(app) as client:
        yield client


def followed(code: str, number: int, at: datetime, **details: Any) -> AccessEvent:
    return AccessEvent(f"event-{number}", code, at, **details)


@pytest.fixture(params=["shortener", "analytics"])
def door(request: pytest.FixtureRequest) -> tuple[str, httpx.AsyncClient]:
    """Each main door, and its name."""
    return request.param, request.getfixturevalue(request.param)
