"""The file of counts: what it is made of, and how it is opened."""

import sqlite3
from pathlib import Path

from urlshortener.errors import WrongSetting
from urlshortener.stats.sqlite_once import PROGRESS_TABLE, REQUESTS_TABLE

_LOCK_SECONDS = 2.0  # how long to wait for another process that writes to the file
_WRITER_PRAGMAS = (
    "journal_mode = WAL",  # the file keeps this, for the readers too
    "synchronous = FULL",  # a commit is on the disk
    "wal_autocheckpoint = 8192",  # 32 MiB of log: a page that many batches touch is copied back once
    "cache_size = -16384",  # 16 MiB: a batch over many codes touches pages everywhere
    "temp_store = MEMORY",
)

# user_version is the layout's number, and behind it in three digits the oldest layout whose code can work with it. A
# later layout that only adds keeps these, so that a rollback finds a file it can use.
LAYOUT = 2
_SCHEMA = """
BEGIN IMMEDIATE;

CREATE TABLE links (
    code TEXT PRIMARY KEY,
    access_count INTEGER NOT NULL,
    bots INTEGER NOT NULL,
    visitors INTEGER NOT NULL,  -- grows with each row that is new in the table visitors
    last_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX most_followed ON links (access_count DESC, code);

-- By day first: what is written now lies together, and what is past its retention is one stretch.
CREATE TABLE quarters (
    day INTEGER, code TEXT, quarter INTEGER, access_count INTEGER NOT NULL,
    PRIMARY KEY (day, code, quarter)
) WITHOUT ROWID;
CREATE TABLE visitors (
    day INTEGER, code TEXT, visitor INTEGER,
    PRIMARY KEY (day, code, visitor)
) WITHOUT ROWID;

-- Which events were counted: a bit for each number of an epoch. A block without bits is counted completely.
CREATE TABLE epochs (id INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT NOT NULL UNIQUE, last_us INTEGER NOT NULL);
CREATE INDEX epochs_by_age ON epochs (last_us);
CREATE TABLE blocks (epoch_id INTEGER, block INTEGER, bits BLOB, PRIMARY KEY (epoch_id, block)) WITHOUT ROWID;
CREATE TABLE foreign_ids (id TEXT PRIMARY KEY, counted_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX foreign_ids_by_age ON foreign_ids (counted_us);

CREATE TABLE summary (total INTEGER NOT NULL, first_open_day INTEGER NOT NULL);
INSERT INTO summary VALUES (0, 0);
CREATE TRIGGER count_links AFTER INSERT ON links BEGIN UPDATE summary SET total = total + 1; END;

PRAGMA user_version = 1001;
COMMIT;
"""
_SECOND_LAYOUT = f"""
BEGIN IMMEDIATE;
{REQUESTS_TABLE};
{PROGRESS_TABLE};
PRAGMA user_version = 2001;
COMMIT;
"""

# What a batch goes through, see `_FILL_FRESH` in stats/sqlite.py.
_FRESH_TABLE = """
CREATE TEMPORARY TABLE fresh (
    code TEXT, quarter INTEGER, day INTEGER, at_us INTEGER, bot INTEGER, visitor INTEGER
)
"""


def opened(path: Path, how_many: int) -> tuple[sqlite3.Connection, list[sqlite3.Connection]]:
    """The connection that writes, and so many that read."""
    try:
        writer = _connect(path)
        _agree_on_layout(writer, path)  # before anything changes a file that may be somebody else's
        _set(writer, *_WRITER_PRAGMAS)
        writer.execute(_FRESH_TABLE)
        readers = [_connect(path) for _ in range(how_many)]
        for reader in readers:
            _set(reader, "query_only = ON")
    except sqlite3.Error as error:
        raise WrongSetting(f"STATS_URL: {path} cannot be opened as a SQLite file of counts.") from error
    return writer, readers


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)


def _set(connection: sqlite3.Connection, *pragmas: str) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")


def _agree_on_layout(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        if connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise WrongSetting(f"STATS_URL: {path} holds something else than counts; name a file of its own.")
        connection.executescript(_SCHEMA)
        version = 1001
    if version // 1000 < LAYOUT:
        connection.executescript(_SECOND_LAYOUT)
    elif version % 1000 > LAYOUT:
        raise WrongSetting(f"STATS_URL: {path} was written by a newer version, which this one cannot work with.")
