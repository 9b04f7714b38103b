"""What the negative controls take away is there to be taken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drill import checkers, faults
from drill.controls import CONTROLS
from drill.programme import brief, full, short
from drill.unsafe import UNSAFE
from tests.backends.postgresql import Postgresql
from tests.links.stores import drawing, keyed, opened, postgresql_store, servers
from urlshortener.links import sql_store
from urlshortener.links.postgresql import migrate


def test_each_safety_can_be_taken_away(tmp_path: Path) -> None:
    every = "from drill.unsafe import UNSAFE\nfor take_away in UNSAFE.values(): take_away()"
    environment = {**os.environ, "SPOOL_DIR": str(tmp_path / "spool"), "DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", every], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_without_an_upsert_that_writes_a_create_that_is_repeated_only_reads(
    postgresql: Postgresql, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_store.SqlLinkStore, "add_many", sql_store.SqlLinkStore.add_many)  # as it was, afterwards
    UNSAFE["do_nothing"]()
    await migrate(servers(database, postgresql))
    written = "SELECT touched_at FROM links"
    async with opened(postgresql_store(servers(database, postgresql), drawing())) as store:
        wanted = keyed("key", "cat")
        first = await store.add_many([wanted])
        at = postgresql.run_sql(written, database=database)
        assert await store.add_many([wanted]) == first
        assert postgresql.run_sql(written, database=database) == at


def test_each_control_takes_away_what_there_is_and_expects_a_checker_that_there_is() -> None:
    source = Path(checkers.__file__).read_text()
    for control in CONTROLS:
        assert not control.unsafe or control.unsafe in UNSAFE
        assert f'"{control.checker}"' in source


def test_programmes_have_steps_of_different_names_and_each_control_once() -> None:
    for programme in (full, short):
        steps = programme(7)
        assert len({step.name for step in steps}) == len(steps)
        controls = [step.control.name for step in steps if step.control]
        assert sorted(controls) == sorted(control.name for control in CONTROLS)
    kills = [fault.name for step in full(7) if step.name.startswith("kill") for fault in step.faults]
    assert {kills.count(name) for name in set(kills)} == {30}
    once = [fault for step in short(7) if not step.control for fault in step.faults]
    assert len(once) == len(set(once))
    assert set(once) == {*faults.ALL} - {faults.SERVICES_RESTARTED}
    assert len(brief(7)) == 4
