"""Millions of links in a database within seconds: made by the database itself, as no service would make them."""

import contextlib
import sqlite3
from pathlib import Path

from tests.backends.postgresql import Postgresql

# traffic.code_of and traffic.target_of, in SQL
_CODE = "lpad(to_hex(number * 2654435761 % 4294967296), 8, '0')"
_PREFIX, _SUFFIX = "https://example.com/some/page/", "?from=newsletter"
_COLUMNS = "id, code, target, created_at, updated_at, enabled, version, touched_at"
_AT_ONCE = 500_000  # a transaction
_LIMIT_SECONDS = 600  # with millions of links there, on a machine that has other things to do


def fill_postgresql(server: Postgresql, database: str, count: int, first: int = 1) -> None:
    """Links `first` … `first + count - 1`, the higher the newer."""
    for start in range(first, first + count, _AT_ONCE):
        end = min(start + _AT_ONCE, first + count) - 1
        server.run_sql(
            f"INSERT INTO links ({_COLUMNS}) "
            f"SELECT gen_random_uuid(), {_CODE}, '{_PREFIX}' || {_CODE} || '{_SUFFIX}', at, at, true, 1, at "
            f"FROM (SELECT number, timestamptz '2026-01-01Z' + number * interval '1 millisecond' AS at "
            f"FROM generate_series({start}::bigint, {end}::bigint) number) made",
            database=database,
            limit_seconds=_LIMIT_SECONDS,
        )
    # What was written goes to the disk now, not while something is measured.
    server.run_sql("VACUUM ANALYZE links", "CHECKPOINT", database=database, limit_seconds=_LIMIT_SECONDS)


def fill_sqlite(path: Path, count: int, first: int = 1) -> None:
    """The same in a file that no process has open."""
    code = "printf('%08x', number * 2654435761 % 4294967296)"
    at = "strftime('%Y-%m-%d %H:%M:%S', 1767225600 + number / 1000, 'unixepoch') || printf('.%03d000', number % 1000)"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-1048576")  # a GiB: codes come in no order, each lands on another page
        for start in range(first, first + count, _AT_ONCE):
            end = min(start + _AT_ONCE, first + count) - 1
            connection.execute(
                f"INSERT INTO links ({_COLUMNS}) "
                f"WITH RECURSIVE numbers(number) AS "
                f"(SELECT {start} UNION ALL SELECT number + 1 FROM numbers WHERE number < {end}), "
                f"made AS (SELECT {code} AS code, {at} AS at FROM numbers) "
                f"SELECT lower(hex(randomblob(16))), code, '{_PREFIX}' || code || '{_SUFFIX}', at, at, 1, 1, at "
                "FROM made"
            )
        connection.execute("PRAGMA optimize")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
