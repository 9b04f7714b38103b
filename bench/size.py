"""Do lookups, creates and pages slow down between a hundred thousand links and ten million, in either database?

Asked is the store, call by call; and a service whose memory holds no link, as visitors ask it. Takes some ten minutes
and ten gigabytes, most of it for making the links; so it is asked only by its name.
"""

import asyncio
import json
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bench.harness import closed_loop, cores, links, shortener, traffic
from bench.harness.closed_loop import Load
from bench.harness.counts import check_counts
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.sizes import milliseconds_to_create, milliseconds_to_read
from bench.harness.system import Service, processor_seconds, start
from tests.backends.postgresql import Postgresql
from urlshortener.links import postgresql, sqlite
from urlshortener.links.postgresql_connector import Servers
from urlshortener.links.store import LinkStore

Connect: TypeAlias = Callable[[], LinkStore]
Measure: TypeAlias = Callable[[LinkStore, int], Awaitable[Mapping[str, float]]]
Check: TypeAlias = Callable[[Run, Service, Sequence[Load]], None]

TITLE = "Ten million links in a database"

WHAT_LIMITS = (
    "a hundred thousand links (30 MB) fit in PostgreSQL's 256 MB of shared_buffers, and nearly in the processor's "
    "cache; ten million (3 GB) fit in neither, so that a lookup reads one or two pages from the system's page cache"
    " in PostgreSQL, three or four in SQLite, and waits for memory: in SQLite, 6 µs more for each link. One tree "
    "instead of two (`WITHOUT ROWID`) would save less than 2 of them; `mmap`, larger pages and a larger cache of "
    "SQLite's own save nothing that shows. All files are read before each turn, so that they are in the page cache,"
    " as they are where memory is enough. Where it is not, as where a kernel drops pages that were not read for a "
    "while (this one does), the disk decides."
)


class _Kind(NamedTuple):
    """A kind of database, and the service that is asked with it."""

    name: str
    files: Path
    command: str
    check: Check


_FEW, _MANY = 100_000, 10_000_000
_FEWEST = 20_000  # so that nobody follows one twice, however short the run
_MOST_VISITORS = 100_000  # of a turn
_VISITOR = ("198.18.0.1", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0")


def ask(run: Run) -> None:
    few, many = max(_FEWEST, run.so_many(_FEW)), run.so_many(_MANY)
    run.ran("the store of links, called directly", cores.SERVICE)
    _on_postgresql(run, few, many)
    with tempfile.TemporaryDirectory(prefix="urlshortener-bench-") as folder:
        _on_sqlite(run, Path(folder), few, many)


def _on_postgresql(run: Run, few: int, many: int) -> None:
    server = run.postgresql()
    kind = _Kind("PostgreSQL", server.data / "base", "shortener", shortener.check_spool)
    fresh = {count: run.settings(broker=False, counts=False) for count in (few, many)}
    stores: dict[int, Connect] = {}
    for count, one in fresh.items():
        run.say(f"PostgreSQL: makes {count:,} links")
        links.fill_postgresql(server, one.database, count)
        servers = Servers(((server.host, server.port),), server.user, server.password, one.database)
        stores[count] = partial(postgresql.open_store, servers)
    _compare(run, kind, stores, milliseconds_to_read)
    pages = [_pages_from_elsewhere(server, fresh[many].database, many) for _ in range(5)]
    run.figure(f"PostgreSQL: pages that 64 lookups find in no buffer of its own, of {many:,}", "pages", pages)
    size = server.run_sql("SELECT pg_total_relation_size('links')", database=fresh[many].database)
    run.figure(f"PostgreSQL: disk for a link, of {many:,}", "bytes", [int(size) / many])
    settings = {count: one.settings for count, one in fresh.items()}
    _compare_visits(run, kind, settings)
    _compare(run, kind, stores, milliseconds_to_create)


def _pages_from_elsewhere(server: Postgresql, database: str, count: int) -> int:
    wanted = ",".join(traffic.code_of(random.randint(1, count)) for _ in range(64))
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM links WHERE code = ANY('{{{wanted}}}')"
    pages: int = json.loads(server.run_sql(explain, database=database))[0]["Plan"]["Shared Read Blocks"]
    return pages


def _on_sqlite(run: Run, folder: Path, few: int, many: int) -> None:
    kind = _Kind("SQLite", folder, "run", check_counts)
    paths = {count: folder / f"{count}.db" for count in (few, many)}
    for count, path in paths.items():
        asyncio.run(sqlite.migrate(path))
        run.say(f"SQLite: makes {count:,} links")
        links.fill_sqlite(path, count)
    stores: dict[int, Connect] = {count: partial(sqlite.open_store, path) for count, path in paths.items()}
    _compare(run, kind, stores, milliseconds_to_read)
    run.figure(f"SQLite: disk for a link, of {many:,}", "bytes", [paths[many].stat().st_size / many])
    settings = {count: {"LINKS_URL": f"sqlite:///{path}"} for count, path in paths.items()}
    _compare_visits(run, kind, settings)
    _compare(run, kind, stores, milliseconds_to_create)


def _compare(run: Run, kind: _Kind, stores: Mapping[int, Connect], measure: Measure) -> None:
    """Creates come last: they would make the few many, and wake autovacuum among the few only."""
    few, many = stores
    os.sync()  # what was filled in is on its disk
    took: dict[int, list[Mapping[str, float]]] = {few: [], many: []}
    with cores.on(cores.SERVICE):
        for count in run.by_turns(few, many):
            _bring_to_memory(kind.files)
            took[count].append(asyncio.run(_measured(stores[count], count, measure)))
    goal = Goal(1.5, 1.2, less_is_better=True)
    for what in took[many][0]:
        _tell(run, f"{kind.name}: {what}", "ms", {count: [turn[what] for turn in took[count]] for count in took}, goal)


def _tell(run: Run, name: str, unit: str, found: Mapping[int, Sequence[float]], goal: Goal | None = None) -> None:
    few, many = found
    ratios = [among_many / among_few for among_many, among_few in zip(found[many], found[few], strict=True)]
    beside_name = f"among {few:,} ({min(ratios):.2f} to {max(ratios):.2f} by turns)"
    run.figure(f"{name}, among {many:,}", unit, found[many], beside=found[few], beside_name=beside_name, goal=goal)


async def _measured(connect: Connect, count: int, measure: Measure) -> Mapping[str, float]:
    store = connect()
    try:
        await milliseconds_to_read(store, count)  # the other one had the caches before
        return await measure(store, count)
    finally:
        await store.close()


def _bring_to_memory(files: Path) -> None:
    """Have all of them in the system's page cache, which may have dropped some: asked is the database, not the disk.

    Nobody in this process may have one open: closing it here would take SQLite's locks away.
    """
    for file in files.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError), file.open("rb") as content:
            while content.read(1 << 20):
                pass


def _compare_visits(run: Run, kind: _Kind, settings: Mapping[int, Mapping[str, str]]) -> None:
    """Each link is followed for the first time, so that each redirect waits for the database."""
    few, many = settings
    loads: dict[int, list[Load]] = {few: [], many: []}
    work: dict[int, list[float]] = {few: [], many: []}
    for count in chain(run.by_turns(few, many), run.by_turns(few, many)):  # a run differs by a tenth from the next
        _bring_to_memory(kind.files)
        load, microseconds = _visited(run, kind, settings[count], count)
        loads[count].append(load)
        work[count].append(microseconds)
    where = f"{kind.name}: redirects, no link in memory"
    _tell(run, where, "1/s", {count: [load.a_second for load in loads[count]] for count in loads}, Goal(0.9, 1.0))
    _tell(run, f"{where}: p50", "ms", {count: [load.p50_ms for load in loads[count]] for count in loads})
    _tell(run, f"{where}: the service's own work", "µs", work)


def _visited(run: Run, kind: _Kind, settings: Mapping[str, str], count: int) -> tuple[Load, float]:
    """What came back, and how many microseconds the service worked for each."""
    numbers = random.sample(range(1, count + 1), min(count, _MOST_VISITORS))
    without_memory = {"CACHE_WARM_LINKS": "0", "SPOOL_MAX_BYTES": "64Gi"}
    with Service(kind.command, {**settings, **without_memory}) as service:
        visits = [traffic.request(traffic.code_of(number), *_VISITOR) for number in numbers]
        requests = closed_loop.write_requests(service.folder / "requests", visits)
        start(service)
        run.ran(f"urlshortener {kind.command}", cores.SERVICE)
        used = processor_seconds(service.pid)
        load = run.load(service.urls[0], requests)
        microseconds = 1e6 * (processor_seconds(service.pid) - used) / max(1, load.completed)
        absent = int(service.metrics()['link_cache_lookups_total{held="absent"}'])
        run.check(f"{load.completed:,} redirects, {absent:,} lookups", holds=absent >= load.completed)
        kind.check(run, service, [load])
    return load, microseconds
