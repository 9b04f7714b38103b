import asyncio

import asyncpg
import pytest

from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.backends.server import Server


async def _connect(server: Postgresql, database: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, database=database, timeout=5
    )


async def test_app_owns_its_fresh_database(postgresql: Postgresql, database: str) -> None:
    connection = await _connect(postgresql, database)
    await connection.execute("CREATE TABLE cats (name text)")
    assert await connection.fetchval("SELECT count(*) FROM cats") == 0
    await connection.close()


async def test_a_wrong_password_is_refused(postgresql: Postgresql, database: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=postgresql.host, port=postgresql.port, user="app", password="no", database=database)


async def test_what_was_committed_survives_a_kill(own_postgresql: Postgresql) -> None:
    database = own_postgresql.fresh_database()
    connection = await _connect(own_postgresql, database)
    await connection.execute("CREATE TABLE cats (name text)")
    await connection.execute("INSERT INTO cats VALUES ('tom')")
    own_postgresql.kill()
    assert not own_postgresql.is_running
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.fetchval("SELECT 1", timeout=5)
    await asyncio.to_thread(own_postgresql.start)
    connection = await _connect(own_postgresql, database)
    assert await connection.fetchval("SELECT name FROM cats") == "tom"
    await connection.close()


async def test_a_paused_server_answers_when_it_is_resumed(own_postgresql: Postgresql) -> None:
    connection = await _connect(own_postgresql, own_postgresql.fresh_database())
    own_postgresql.pause()
    answer = asyncio.create_task(connection.fetchval("SELECT 1"))
    await asyncio.wait([answer], timeout=0.2)
    assert not answer.done()
    own_postgresql.resume()
    assert await asyncio.wait_for(answer, 5) == 1
    await connection.close()


async def test_a_stop_ends_sessions_and_a_start_takes_the_same_port(own_postgresql: Postgresql) -> None:
    connection = await _connect(own_postgresql, own_postgresql.fresh_database())
    await asyncio.to_thread(own_postgresql.stop)
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.fetchval("SELECT 1", timeout=5)
    await asyncio.to_thread(own_postgresql.start)
    await (await _connect(own_postgresql, "postgres")).close()


def test_a_server_that_does_not_come_up_shows_its_log(own_postgresql: Postgresql) -> None:
    own_postgresql.stop()
    own_postgresql.configuration["max_connections"] = "nonsense"
    with pytest.raises(AssertionError, match=r"(?s)ended while it started.*max_connections"):
        own_postgresql.start()


def test_the_replica_has_what_the_primary_has_and_takes_no_writes(postgresql_pair: PostgresqlPair) -> None:
    database = postgresql_pair.primary.fresh_database()
    postgresql_pair.primary.run_sql("CREATE TABLE cats (name text)", database=database)
    postgresql_pair.wait_until_replicating()
    assert postgresql_pair.replica.run_sql("SELECT count(*) FROM cats", database=database) == "0"
    with pytest.raises(AssertionError, match="read-only"):
        postgresql_pair.replica.run_sql("INSERT INTO cats VALUES ('tom')", database=database)


def test_the_replica_of_a_killed_primary_is_promoted(postgresql_pair: PostgresqlPair) -> None:
    replica = postgresql_pair.replica
    postgresql_pair.primary.kill()
    postgresql_pair.promote_replica()
    assert postgresql_pair.primary is replica
    assert replica.fresh_database() in replica.run_sql("SELECT datname FROM pg_database")


def test_a_switch_over_loses_nothing_and_keeps_both(synchronous_postgresql_pair: PostgresqlPair) -> None:
    pair = synchronous_postgresql_pair
    first = pair.primary
    database = first.fresh_database()
    first.run_sql("CREATE TABLE cats (name text)", "INSERT INTO cats VALUES ('tom')", database=database)
    pair.switch_over()
    assert (pair.replica, first.is_replica) == (first, True)
    pair.primary.run_sql("INSERT INTO cats VALUES ('felix')", database=database)
    pair.wait_until_replicating()
    assert first.run_sql("SELECT name FROM cats ORDER BY 1", database=database).split() == ["felix", "tom"]


def test_a_closed_server_leaves_no_folder(postgresql: Postgresql) -> None:
    server: Server = Postgresql("short-lived")
    server.start()
    server.close()
    assert not server.is_running
    assert not server.folder.exists()
    assert postgresql.is_running
