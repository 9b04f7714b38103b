"""What PostgreSQL's exporter is told to count, on real servers: a standby counts while it follows, and only then."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.backends.waiting import wait_until
from tests.monitoring.standbys import QUERIES

_QUERY = QUERIES["standbys"]["query"]
_ALL_THAT_ASK_FOR_THE_LOG = "SELECT count(*) FROM pg_stat_replication"
_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture
def pair(postgresql_pair: PostgresqlPair) -> PostgresqlPair:
    """With the role of the operator's exporter: it may look at everything, and at nothing else."""
    postgresql_pair.primary.run_sql("CREATE ROLE exporter IN ROLE pg_monitor")
    return postgresql_pair


def _streaming(server: Postgresql) -> int:
    return int(server.run_sql("SET ROLE exporter", "BEGIN READ ONLY", _QUERY))


def test_a_standby_that_follows_is_counted_until_it_is_gone(pair: PostgresqlPair) -> None:
    assert _streaming(pair.primary) == 1
    pair.replica.stop()
    wait_until(lambda: _streaming(pair.primary) == 0, "the standby has gone", within_seconds=10)
    pair.replica.start()
    wait_until(lambda: _streaming(pair.primary) == 1, "the standby is back", within_seconds=10)


def test_the_runbook_shows_each_standby_that_a_commit_may_wait_for(synchronous_postgresql_pair: PostgresqlPair) -> None:
    page = _PAGE.read_text()
    (query,) = re.findall(r"psql -Atc '([^']+)'", page)
    (end,) = re.findall(r"lines that end in\s+`(\S+)`", page)
    assert synchronous_postgresql_pair.primary.run_sql(query).endswith(end)


@pytest.fixture
def slow_clone(pair: PostgresqlPair, tmp_path: Path) -> Iterator[None]:
    """A clone of the primary in the making, so slowly that it stays that."""
    program = max(Path("/usr/lib/postgresql").glob("*/bin/pg_basebackup"), key=lambda each: int(each.parts[4]))
    how = ["--max-rate=32k", "--checkpoint=fast", "--wal-method=stream", "-D", str(tmp_path / "clone")]
    with subprocess.Popen([program, *how, "-d", pair.primary.conninfo("postgresql-three")]) as clone:
        yield
        clone.kill()


@pytest.mark.usefixtures("slow_clone")
def test_a_clone_in_the_making_is_no_standby(pair: PostgresqlPair) -> None:
    streams = f"{_ALL_THAT_ASK_FOR_THE_LOG} WHERE state = 'streaming'"
    wait_until(lambda: pair.primary.run_sql(streams) == "2", "the clone reads the log", within_seconds=10)
    assert pair.primary.run_sql(_ALL_THAT_ASK_FOR_THE_LOG) == "3"
    assert _streaming(pair.primary) == 1


def test_an_instance_that_left_the_common_history_runs_and_is_not_counted(pair: PostgresqlPair) -> None:
    former = pair.primary
    pair.promote_replica()
    for server in pair.members:  # the former primary does not know, and goes on
        server.fresh_database()
    former.stop()
    former.follow(pair.primary)
    former.start()
    astray = re.compile(_words_of_the_runbook())
    wait_until(lambda: astray.search(former.log.read_text()) is not None, "it says so", within_seconds=20)
    assert former.is_running
    assert former.is_replica
    assert _streaming(pair.primary) == 0


def _words_of_the_runbook() -> str:
    """By which docs/operations.md looks for such an instance in its log."""
    (words,) = re.findall(r"grep -E '([^']+)'", _PAGE.read_text())
    return str(words)
