"""A hundred times as many links cost nearly the same. With ten million: `make bench ARGS=size`."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.harness import links
from bench.harness.sizes import milliseconds
from tests.links.stores import servers
from urlshortener.links import postgresql, sqlite
from urlshortener.links.store import LinkStore

FEW, MANY = 2_000, 200_000
Filled = tuple[Callable[[], LinkStore], Callable[[int, int], None]]


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    """How to open a store, and how to fill it with links while it is closed."""
    if request.param == "sqlite":
        path = tmp_path / "links.db"
        asyncio.run(sqlite.migrate(path))
        return lambda: sqlite.open_store(path), lambda first, count: links.fill_sqlite(path, count, first)
    server, database = request.getfixturevalue("postgresql"), request.getfixturevalue("database")
    way = servers(database, server)
    asyncio.run(postgresql.migrate(way))
    return lambda: postgresql.open_store(way), lambda first, count: links.fill_postgresql(
        server, database, count, first
    )


def test_a_hundred_times_as_many_links_do_not_slow_anything_down(filled: Filled) -> None:
    connect, fill = filled

    async def measured(count: int) -> dict[str, float]:
        store = connect()
        try:
            return dict(await milliseconds(store, count, times=15))
        finally:
            await store.close()

    fill(1, FEW)
    few = asyncio.run(measured(FEW))
    fill(FEW + 1, MANY - FEW)
    many = asyncio.run(measured(MANY))
    # What reads every row takes a hundred times as long; the rest is for whatever else the machine does.
    slower = {what: (few[what], took) for what, took in many.items() if took > 8 * few[what] + 20}
    assert not slower
