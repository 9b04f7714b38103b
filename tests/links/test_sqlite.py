"""What is particular to links in one file."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.links.stores import draft, opened
from urlshortener.errors import WrongSetting
from urlshortener.links import sqlite
from urlshortener.links.link import Link

_TAKE_LINKS_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.links.stores import draft
from urlshortener.links import sqlite

async def main():
    store = sqlite.open_store(Path(sys.argv[1]))
    n = 0
    while True:
        await store.add_many([draft(f"code-{n}")])
        print(f"code-{n}", flush=True)
        n += 1

asyncio.run(main())
"""


async def test_a_file_belongs_to_one_store_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "links.db"
    await sqlite.migrate(path)
    async with opened(sqlite.open_store(path)) as store:
        await store.add_many([draft()])
        with pytest.raises(WrongSetting, match="in use"):
            sqlite.open_store(path)
    async with opened(sqlite.open_store(path)) as store:
        assert set(await store.find_many(["cat"])) == {"cat"}


async def test_a_migration_may_run_beside_an_open_store(tmp_path: Path) -> None:
    path = tmp_path / "links.db"
    await sqlite.migrate(path)
    async with opened(sqlite.open_store(path)) as store:
        assert not (await sqlite.migrate(path)).database_is_newer
        (made,) = await store.add_many([draft()])
        assert isinstance(made, Link)


@pytest.mark.parametrize("written", ["2027-01-01", "2027-01-01 00:00", "2027-01-01T00:00:00Z"])
async def test_a_time_that_somebody_else_wrote_otherwise_is_read_and_spoils_no_other_lookup(
    tmp_path: Path, written: str
) -> None:
    path = tmp_path / "links.db"
    await sqlite.migrate(path)
    async with opened(sqlite.open_store(path)) as store:
        _, dog = await store.add_many([draft("cat"), draft("dog")])
        with contextlib.closing(sqlite3.connect(path)) as by_hand, by_hand:
            by_hand.execute("UPDATE links SET expires_at = ? WHERE code = 'cat'", (written,))
        found = await store.find_many(["cat", "dog"])
    assert found["cat"].expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert found["dog"] == dog


async def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WrongSetting, match="LINKS_URL"):
        sqlite.open_store(tmp_path / "file" / "links.db")
    with pytest.raises(WrongSetting, match="LINKS_URL"):
        await sqlite.migrate(tmp_path / "file" / "links.db")


async def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "links.db"
    await sqlite.migrate(path)
    command = [sys.executable, "-c", _TAKE_LINKS_UNTIL_KILLED, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.read().split()
    async with opened(sqlite.open_store(path)) as store:
        assert set(answered) <= {link.code for link in await store.page(10_000)}
