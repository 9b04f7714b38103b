"""Do lookups, creates and pages slow down between a hundred thousand links and ten million, in either database?

Takes some seven minutes and ten gigabytes, most of it for making the links; so it is asked only by its name.
"""

import asyncio
import json
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from bench.harness import cores, links, traffic
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.sizes import milliseconds_to_create, milliseconds_to_read
from tests.backends.postgresql import Postgresql
from urlshortener.links import postgresql, sqlite
from urlshortener.links.postgresql_connector import Servers
from urlshortener.links.store import LinkStore

Connect: TypeAlias = Callable[[], LinkStore]
Measure: TypeAlias = Callable[[LinkStore, int], Awaitable[Mapping[str, float]]]

TITLE = "Ten million links in a database"

WHAT_LIMITS = (
    "a hundred thousand links (30 MB) fit in PostgreSQL's 256 MB of shared_buffers, and nearly in the processor's "
    "cache; ten million (3 GB) fit in neither, so that a lookup reads pages from the system's page cache. SQLite with "
    "a larger cache of its own, or with `mmap`, took the same time."
)

_FEW, _MANY = 100_000, 10_000_000


def ask(run: Run) -> None:
    few, many = run.so_many(_FEW), run.so_many(_MANY)
    run.ran("the store of links, called directly", cores.SERVICE)
    _on_postgresql(run, few, many)
    with tempfile.TemporaryDirectory(prefix="urlshortener-bench-") as folder:
        _on_sqlite(run, Path(folder), few, many)


def _on_postgresql(run: Run, few: int, many: int) -> None:
    server = run.postgresql()
    databases = {count: server.fresh_database() for count in (few, many)}
    stores: dict[int, Connect] = {}
    for count, database in databases.items():
        servers = Servers(((server.host, server.port),), server.user, server.password, database)
        asyncio.run(postgresql.migrate(servers))
        run.say(f"PostgreSQL: makes {count:,} links")
        links.fill_postgresql(server, database, count)
        stores[count] = partial(postgresql.open_store, servers)
    _compare(run, "PostgreSQL", stores, milliseconds_to_read)
    pages = [_pages_from_elsewhere(server, databases[many], many) for _ in range(5)]
    run.figure(f"PostgreSQL: pages that 64 lookups find in no buffer of its own, of {many:,}", "pages", pages)
    size = server.run_sql("SELECT pg_total_relation_size('links')", database=databases[many])
    run.figure(f"PostgreSQL: disk for a link, of {many:,}", "bytes", [int(size) / many])
    _compare(run, "PostgreSQL", stores, milliseconds_to_create)


def _pages_from_elsewhere(server: Postgresql, database: str, count: int) -> int:
    wanted = ",".join(traffic.code_of(random.randint(1, count)) for _ in range(64))
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM links WHERE code = ANY('{{{wanted}}}')"
    pages: int = json.loads(server.run_sql(explain, database=database))[0]["Plan"]["Shared Read Blocks"]
    return pages


def _on_sqlite(run: Run, folder: Path, few: int, many: int) -> None:
    stores: dict[int, Connect] = {}
    for count in (few, many):
        path = folder / f"{count}.db"
        asyncio.run(sqlite.migrate(path))
        run.say(f"SQLite: makes {count:,} links")
        links.fill_sqlite(path, count)
        stores[count] = partial(sqlite.open_store, path)
    _compare(run, "SQLite", stores, milliseconds_to_read)
    run.figure(f"SQLite: disk for a link, of {many:,}", "bytes", [path.stat().st_size / many])
    _compare(run, "SQLite", stores, milliseconds_to_create)


def _compare(run: Run, name: str, stores: Mapping[int, Connect], measure: Measure) -> None:
    """Both are asked by turns, so that both have the same machine, whatever else that does meanwhile. Creates come
    last: they would make the few many, and wake autovacuum among the few only."""
    few, many = stores
    os.sync()  # what was filled in is on its disk
    took: dict[int, list[Mapping[str, float]]] = {few: [], many: []}
    with cores.on(cores.SERVICE):
        for _ in run.rounds():
            for count in (few, many, many, few):
                took[count].append(asyncio.run(_measured(stores[count], count, measure)))
    for what in took[many][0]:
        _tell(run, f"{name}: {what}", few, many, {count: [turn[what] for turn in took[count]] for count in took})


def _tell(run: Run, name: str, few: int, many: int, took: Mapping[int, Sequence[float]]) -> None:
    ratios = [slow / fast for slow, fast in zip(took[many], took[few], strict=True)]
    run.figure(
        f"{name}, among {many:,}",
        "ms",
        took[many],
        beside=took[few],
        beside_name=f"among {few:,} ({min(ratios):.2f} to {max(ratios):.2f} by turns)",
        goal=Goal(1.5, 1.2, less_is_better=True),
    )


async def _measured(connect: Connect, count: int, measure: Measure) -> Mapping[str, float]:
    store = connect()
    try:
        await milliseconds_to_read(store, count)  # the other one had the caches before
        return await measure(store, count)
    finally:
        await store.close()
