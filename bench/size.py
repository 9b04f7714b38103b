"""Do lookups, creates and pages slow down between a hundred thousand links and ten million, in either database?

Takes some ten minutes and ten gigabytes, most of it for making the links; so it is asked only by its name.
"""

import asyncio
import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.harness import cores, links, traffic
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.sizes import milliseconds
from tests.backends.postgresql import Postgresql
from urlshortener.links import postgresql, sqlite
from urlshortener.links.postgresql_connector import Servers
from urlshortener.links.store import LinkStore

TITLE = "Ten million links in a database"

WHY_MISSED = (
    "a hundred thousand links (30 MB) fit in PostgreSQL's 256 MB of shared_buffers, ten million (3 GB) do not, and "
    "are copied from the system's page cache."
)

_FEW, _MANY = 100_000, 10_000_000


def ask(run: Run) -> None:
    few, many = run.so_many(_FEW), run.so_many(_MANY)
    run.ran("the store of links, called directly", cores.SERVICE)
    _on_postgresql(run, few, many)
    with tempfile.TemporaryDirectory(prefix="urlshortener-bench-") as folder:
        _on_sqlite(run, Path(folder) / "links.db", few, many)


def _on_postgresql(run: Run, few: int, many: int) -> None:
    server = run.postgresql()
    database = server.fresh_database()
    servers = Servers(((server.host, server.port),), server.user, server.password, database)
    asyncio.run(postgresql.migrate(servers))

    def fill(first: int, count: int) -> None:
        links.fill_postgresql(server, database, count, first)

    _compare(run, "PostgreSQL", connect=lambda: postgresql.open_store(servers), fill=fill, few=few, many=many)
    pages = [_pages_from_elsewhere(server, database, many) for _ in range(5)]
    run.figure(f"PostgreSQL: pages that 64 lookups find in no buffer of its own, of {many:,}", "pages", pages)
    size = server.run_sql("SELECT pg_total_relation_size('links')", database=database)
    run.figure(f"PostgreSQL: disk for a link, of {many:,}", "bytes", [int(size) / many])


def _pages_from_elsewhere(server: Postgresql, database: str, count: int) -> int:
    wanted = ",".join(traffic.code_of(random.randint(1, count)) for _ in range(64))
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM links WHERE code = ANY('{{{wanted}}}')"
    pages: int = json.loads(server.run_sql(explain, database=database))[0]["Plan"]["Shared Read Blocks"]
    return pages


def _on_sqlite(run: Run, path: Path, few: int, many: int) -> None:
    asyncio.run(sqlite.migrate(path))

    def fill(first: int, count: int) -> None:
        links.fill_sqlite(path, count, first)

    _compare(run, "SQLite", connect=lambda: sqlite.open_store(path), fill=fill, few=few, many=many)
    run.figure(f"SQLite: disk for a link, of {many:,}", "bytes", [path.stat().st_size / many])


def _compare(
    run: Run, name: str, *, connect: Callable[[], LinkStore], fill: Callable[[int, int], None], few: int, many: int
) -> None:
    fill(1, few)
    before = _measured(run, connect, few)
    run.say(f"{name}: makes {many:,} links")
    fill(few + 1, many - few)
    after = _measured(run, connect, many)
    for what, took in after.items():
        run.figure(
            f"{name}: {what}, among {many:,}",
            "ms",
            took,
            beside=before[what],
            beside_name=f"among {few:,}",
            goal=Goal(1.5, 1.2, less_is_better=True),
        )


def _measured(run: Run, connect: Callable[[], LinkStore], count: int) -> Mapping[str, Sequence[float]]:
    """What each call takes, once for each round; what was filled in is on its disk by then."""
    os.sync()

    async def measure() -> Sequence[Mapping[str, float]]:
        store = connect()
        try:
            await milliseconds(store, count, times=20)  # warm
            return [await milliseconds(store, count) for _ in run.rounds()]
        finally:
            await store.close()

    with cores.on(cores.SERVICE):
        rounds = asyncio.run(measure())
    return {what: [took[what] for took in rounds] for what in rounds[0]}
