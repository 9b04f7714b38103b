"""The connections to PostgreSQL on bad days: killed, paused, moved, cut off in the middle of a commit."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.backends.cut_proxy import CutProxy
from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.links.cut_replies import CutReplies
from tests.links.stores import NOW, draft, drawing, keyed, later, listening, opened, postgresql_store, servers
from urlshortener.errors import OutcomeUnknown, StoreUnavailable
from urlshortener.links import postgresql_listening
from urlshortener.links.link import Change, Draft, Link
from urlshortener.links.postgresql import PostgresqlDatabase, open_store
from urlshortener.links.postgresql import migrate as migrate_links
from urlshortener.links.postgresql_connector import Connector, Role, Servers
from urlshortener.links.sql_store import SqlLinkStore

WAITING_FOR_STANDBY = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def migrated(database: str, *hosts: Postgresql) -> Servers:
    way = servers(database, *hosts)
    await migrate_links(way)
    return way


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


async def sooner_or_later(ask: Callable[[], Awaitable[Any]], seconds: float = 15) -> Any:
    """What it answers, once it no longer raises an outage; everything else it raises is a failure at once."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await ask()
            except (StoreUnavailable, OutcomeUnknown):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


def test_the_password_is_never_shown() -> None:
    assert "secret" not in repr(Servers((("db", 5432),), "app", "secret", "links"))


@pytest.mark.parametrize("commit_arrives", [True, False])
@pytest.mark.parametrize("new", [draft(), keyed("k", "cat"), keyed("k", "taken", code_was_chosen=False)])
async def test_a_commit_whose_reply_is_cut_is_unknown_and_the_same_draft_again_is_one_link(
    postgresql: Postgresql, database: str, commit_arrives: bool, new: Draft
) -> None:
    await migrated(database, postgresql)
    async with (
        CutReplies(postgresql.host, postgresql.port) as proxy,
        opened(postgresql_store(servers(database, postgresql, port=proxy.port), drawing("fox", "owl"))) as store,
    ):
        await store.add_many([draft("taken")])
        proxy.cut_next_commit, proxy.commit_arrives = True, commit_arrives
        with pytest.raises(OutcomeUnknown):
            await store.add_many([new])
        assert proxy.cuts == 1
        assert (new.id in {link.id for link in await store.page(10)}) is commit_arrives
        (made,) = await store.add_many([new])
        assert isinstance(made, Link)
        assert made.id == new.id
        assert [link.id for link in await store.page(10) if link.code != "taken"] == [new.id]


async def test_a_create_whose_answers_are_cut_anywhere_is_one_link_when_it_is_repeated(
    postgresql: Postgresql, database: str
) -> None:
    await migrated(database, postgresql)
    async with (
        CutProxy(postgresql.host, postgresql.port) as proxy,
        opened(postgresql_store(servers(database, postgresql, port=proxy.port), drawing())) as store,
    ):
        await store.add_many([keyed("first", "first")])  # its connection is kept, and knows the statements
        wanted = []
        for reply_bytes in range(0, 2000, 3):
            wanted.append(keyed(f"key-{reply_bytes}", f"code-{reply_bytes}"))
            cuts = proxy.connections_cut
            proxy.cut_after_reply_bytes(reply_bytes)
            (made,) = await sooner_or_later(lambda: store.add_many(wanted[-1:]))
            assert isinstance(made, Link) and made.id == wanted[-1].id
            if proxy.connections_cut == cuts:
                break
        assert 50 < len(wanted) < 600, "each part of the answers was cut, and the last create was not"
        query = "SELECT id FROM links WHERE code LIKE 'code-%'"
        rows = await asyncio.to_thread(postgresql.run_sql, query, database=database)
        assert sorted(rows.split()) == sorted(str(one.id) for one in wanted)


async def test_a_pooled_connection_that_was_ended_is_replaced_without_an_error(
    postgresql: Postgresql, database: str
) -> None:
    way = await migrated(database, postgresql)
    async with opened(postgresql_store(way, drawing())) as store:
        await asyncio.gather(*(store.add_many([draft(f"code-{n}")]) for n in range(4)))
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        await asyncio.to_thread(postgresql.run_sql, end)
        answers = await asyncio.gather(*(store.add_many([draft(f"more-{n}")]) for n in range(4)))
        assert all(isinstance(answer, Link) for (answer,) in answers)


async def test_a_pooled_connection_that_became_read_only_is_replaced_without_an_error(
    postgresql: Postgresql, database: str
) -> None:
    way = await migrated(database, postgresql)
    connections = PostgresqlDatabase(way)

    async def demote(connection: Any) -> None:
        await connection.execute(sa.text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))

    async with opened(SqlLinkStore(connections)) as store:
        await connections.write(demote)
        (made,) = await store.add_many([draft()])
        assert isinstance(made, Link)


class Struck:
    """A write to the database that is struck while its first statement runs."""

    def __init__(self, server: Postgresql, proxy: CutProxy) -> None:
        self._server = server
        self._proxy = proxy
        self.backends: list[int] = []  # one for each attempt

    async def __call__(self, connection: AsyncConnection) -> None:
        self.backends.append((await connection.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())
        if len(self.backends) == 1:
            await connection.execute(sa.text("SELECT pg_sleep(1)"))
        await connection.execute(sa.text("UPDATE links SET version = version + 1"))

    async def by(self, strike: str) -> None:
        await until(lambda: self._server.run_sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1")
        (backend,) = self.backends
        match strike:
            case "57P01":
                await asyncio.to_thread(self._server.run_sql, f"SELECT pg_terminate_backend({backend})")
            case "57P02":  # one that crashes takes all others with it, and 57P03 is what a new one is told
                os.kill(backend, signal.SIGKILL)
            case "stop fast":
                await asyncio.to_thread(self._server.stop)
                await asyncio.to_thread(self._server.start)
            case "connection cut":
                self._proxy.cut_after_reply_bytes(0)


async def backends_of(connections: PostgresqlDatabase) -> set[int]:
    """The process behind each connection of the pool for writes."""

    async def backend(connection: AsyncConnection) -> int:
        return int((await connection.execute(sa.text("SELECT pg_backend_pid(), pg_sleep(0.2)"))).one()[0])

    return set(await asyncio.gather(*(connections.write(backend) for _ in range(4))))


@pytest.mark.parametrize("strike", ["57P01", "57P02", "stop fast", "connection cut"])
async def test_a_write_that_is_struck_is_done_once_on_a_fresh_connection_and_the_old_ones_are_gone(
    own_postgresql: Postgresql, strike: str
) -> None:
    name = own_postgresql.fresh_database()
    await migrated(name, own_postgresql)
    async with CutProxy(own_postgresql.host, own_postgresql.port) as proxy:
        connections = PostgresqlDatabase(servers(name, own_postgresql, port=proxy.port))
        async with opened(SqlLinkStore(connections)) as store:
            await store.add_many([draft("cat")])
            old = await backends_of(connections)
            assert len(old) == 4
            struck = Struck(own_postgresql, proxy)
            if strike in ("57P01", "connection cut"):
                await asyncio.gather(connections.write(struck), struck.by(strike))
            else:  # how long a server takes to be back is not ours to say
                await asyncio.gather(sooner_or_later(lambda: connections.write(struck)), struck.by(strike))
            first, *_, last = struck.backends
            assert first in old
            assert last not in old
            assert (await store.find_many(["cat"]))["cat"].version == 2
            assert not old & await backends_of(connections)


async def test_all_pooled_connections_of_a_primary_that_takes_no_writes_are_dropped(
    postgresql: Postgresql, database: str
) -> None:
    connections = PostgresqlDatabase(await migrated(database, postgresql))

    async def write_as_on_a_standby(connection: AsyncConnection) -> None:
        if len(seen) == 0:
            seen.append(connection)
            await connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        await connection.execute(sa.text("UPDATE links SET version = version + 1"))

    seen: list[AsyncConnection] = []
    async with opened(SqlLinkStore(connections)) as store:
        await store.add_many([draft("cat")])
        old = await backends_of(connections)
        await connections.write(write_as_on_a_standby)
        assert (await store.find_many(["cat"]))["cat"].version == 2
        assert not old & await backends_of(connections)


async def test_a_primary_that_takes_no_writes_is_asked_again_until_it_does_and_is_no_refusal(
    own_postgresql: Postgresql,
) -> None:
    async with opened(open_store(await migrated(own_postgresql.fresh_database(), own_postgresql))) as store:
        await store.add_many([draft("cat")])
        await asyncio.to_thread(own_postgresql.run_sql, *take_writes("off"))
        with pytest.raises(StoreUnavailable):
            await store.add_many([draft("dog")])
        assert set(await store.find_many(["cat", "dog"])) == {"cat"}
        writing = asyncio.create_task(store.add_many([draft("dog")]))
        await asyncio.sleep(0.5)  # in which it was refused more than once
        assert not writing.done()
        await asyncio.to_thread(own_postgresql.run_sql, *take_writes("on"))
        (made,) = await writing
        assert isinstance(made, Link)


def take_writes(word: str) -> tuple[str, str]:
    """What a switch-over by hand begins with."""
    read_only = {"off": "on", "on": "off"}[word]
    return f"ALTER SYSTEM SET default_transaction_read_only = {read_only}", "SELECT pg_reload_conf()"


async def test_a_reader_that_is_struck_is_answered_by_a_fresh_connection(
    own_postgresql: Postgresql,
) -> None:
    name = own_postgresql.fresh_database()
    async with opened(open_store(await migrated(name, own_postgresql))) as store:
        await store.add_many([draft("cat")])
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        for _ in range(3):
            lookups = [asyncio.create_task(store.find_many(["cat"])) for _ in range(8)]
            await asyncio.to_thread(own_postgresql.run_sql, end)
            assert all("cat" in found for found in await asyncio.gather(*lookups))


async def refusal_of(server: Postgresql) -> Exception:
    with pytest.raises((ConnectionRefusedError, asyncpg.PostgresError)) as refused:
        await asyncpg.connect(host=server.host, port=server.port, user=server.user, password=server.password)
    return refused.value


async def test_a_host_that_is_starting_does_not_keep_the_next_one_from_being_asked(
    postgresql_pair: PostgresqlPair,
) -> None:
    starting = postgresql_pair.replica
    starting.stop()
    starting.configuration["hot_standby"] = "off"  # it says 57P03 for as long as it is a standby
    await asyncio.to_thread(starting.launch)
    refusal = await refusal_of(starting)
    while isinstance(refusal, ConnectionRefusedError):
        await asyncio.sleep(0.02)
        refusal = await refusal_of(starting)
    assert isinstance(refusal, asyncpg.CannotConnectNowError)
    way = servers("postgres", starting, postgresql_pair.primary)
    async with time_limit(1):
        connection = await Connector(way, Role.PRIMARY, {}).connect()
    assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
    await connection.close()


async def test_a_killed_server_is_unavailable_at_once_and_found_again_when_it_is_back(
    own_postgresql: Postgresql,
) -> None:
    way = await migrated(own_postgresql.fresh_database(), own_postgresql)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        await store.find_many(["cat"])
        await asyncio.to_thread(own_postgresql.kill)
        async with time_limit(1.5):
            with pytest.raises(StoreUnavailable):
                await store.find_many(["cat"])
        async with time_limit(4.5):
            with pytest.raises(StoreUnavailable):
                await store.add_many([draft("dog")])
        await asyncio.to_thread(own_postgresql.start)
        async with time_limit(3):
            assert "cat" in await sooner_or_later(lambda: store.find_many(["cat"]))
            await sooner_or_later(lambda: store.add_many([draft("dog")]))


async def test_a_hanging_server_keeps_no_reader_waiting_and_is_used_again_when_it_goes_on(
    own_postgresql: Postgresql,
) -> None:
    way = await migrated(own_postgresql.fresh_database(), own_postgresql)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        await asyncio.gather(*(store.find_many(["cat"]) for _ in range(3)))
        await asyncio.to_thread(own_postgresql.pause)
        try:
            async with time_limit(1.5):
                answers = await asyncio.gather(
                    *(store.find_many(["cat"]) for _ in range(20)), store.ping(), return_exceptions=True
                )
            assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        finally:
            await asyncio.to_thread(own_postgresql.resume)
        async with time_limit(5):
            assert "cat" in await sooner_or_later(lambda: store.find_many(["cat"]))


async def test_writes_and_reads_follow_the_primary_to_another_host(postgresql_pair: PostgresqlPair) -> None:
    name = postgresql_pair.primary.fresh_database()
    way = await migrated(name, *postgresql_pair.members)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        await store.find_many(["cat"])
        await asyncio.to_thread(postgresql_pair.wait_until_replicating)
        await asyncio.to_thread(postgresql_pair.primary.kill)
        await asyncio.to_thread(postgresql_pair.promote_replica)
        async with time_limit(4):
            (made,) = await sooner_or_later(lambda: store.add_many([keyed("k", "dog")]))
            assert set(await sooner_or_later(lambda: store.find_many(["cat", "dog"]))) == {"cat", "dog"}
        assert isinstance(made, Link)


async def test_a_primary_that_was_demoted_and_stays_is_left_for_the_new_one(postgresql_pair: PostgresqlPair) -> None:
    name = postgresql_pair.primary.fresh_database()
    way = await migrated(name, *postgresql_pair.members)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        await store.find_many(["cat"])
        await asyncio.to_thread(postgresql_pair.switch_over)
        (made,) = await sooner_or_later(lambda: store.add_many([draft("dog")]))
        assert isinstance(made, Link)
        assert set(await sooner_or_later(lambda: store.find_many(["cat", "dog"]))) == {"cat", "dog"}


async def test_readers_prefer_a_replica_and_take_the_primary_when_there_is_none(
    postgresql_pair: PostgresqlPair,
) -> None:
    way = servers("postgres", *postgresql_pair.members)
    connector = Connector(way, Role.REPLICA_IF_ANY, {})
    for _ in range(4):
        connection = await connector.connect()
        assert await connection.fetchval("SELECT pg_is_in_recovery()") is True
        await connection.close()
    await asyncio.to_thread(postgresql_pair.replica.kill)
    connection = await connector.connect()
    assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
    await connection.close()


async def test_a_host_that_says_nothing_does_not_keep_the_next_one_from_being_asked(postgresql: Postgresql) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = (silent.getsockname(), (postgresql.host, postgresql.port))
        way = Servers(hosts, postgresql.user, postgresql.password, "postgres")
        connector = Connector(way, Role.PRIMARY, {})
        async with time_limit(2):
            await (await connector.connect()).close()
        async with time_limit(0.5):  # the last good one is asked first
            await (await connector.connect()).close()


async def test_a_peer_that_vanishes_is_noticed_by_the_kernel(postgresql: Postgresql) -> None:
    connection = await Connector(servers("postgres", postgresql), Role.PRIMARY, {}).connect()
    peer = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
    await connection.close()


async def test_a_cancelled_caller_cancels_no_commit(synchronous_postgresql_pair: PostgresqlPair) -> None:
    pair = synchronous_postgresql_pair
    way = await migrated(pair.primary.fresh_database(), *pair.members)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        await asyncio.to_thread(pair.replica.pause)
        try:
            caller = asyncio.create_task(store.add_many([draft("dog")]))
            await until(lambda: pair.primary.run_sql(WAITING_FOR_STANDBY) == "1")
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            for _ in range(10):  # half a second, in which a cancelled commit would have shown itself
                await asyncio.sleep(0.05)
                assert await store.find_many(["dog"]) == {}
            assert await asyncio.to_thread(pair.primary.run_sql, WAITING_FOR_STANDBY) == "1"
        finally:
            await asyncio.to_thread(pair.replica.resume)
        found = await sooner_or_later(lambda: store.find_many(["dog"]))
        while not found:
            found = await store.find_many(["dog"])
        assert "dog" in found


CANCEL_REQUEST = (80877102).to_bytes(4)  # how a client asks the server to cancel a statement


async def test_neither_a_time_limit_nor_a_caller_who_leaves_asks_the_server_to_cancel(
    postgresql: Postgresql, database: str
) -> None:
    await migrated(database, postgresql)
    async with (
        CutProxy(postgresql.host, postgresql.port) as proxy,
        opened(open_store(servers(database, postgresql, port=proxy.port))) as store,
    ):
        await store.add_many([draft("cat")])
        await store.find_many(["cat"])
        proxy.freeze()
        late = asyncio.create_task(store.find_many(["cat"]))
        left = asyncio.create_task(store.change("cat", Change(enabled=False), NOW))
        await asyncio.sleep(0.1)
        left.cancel()
        with pytest.raises(StoreUnavailable):
            await late
        proxy.thaw()
        assert not (await sooner_or_later(lambda: found_changed(store)))["cat"].enabled
        assert CANCEL_REQUEST not in proxy.requests


async def found_changed(store: SqlLinkStore) -> Any:
    found = await store.find_many(["cat"])
    if found["cat"].enabled:
        raise StoreUnavailable("not yet")
    return found


async def test_a_commit_that_stopped_waiting_for_its_standby_is_no_success(
    synchronous_postgresql_pair: PostgresqlPair,
) -> None:
    pair = synchronous_postgresql_pair
    way = await migrated(pair.primary.fresh_database(), *pair.members)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        new = draft("dog")
        await asyncio.to_thread(pair.replica.pause)
        try:
            writing = asyncio.create_task(store.add_many([new]))
            await until(lambda: pair.primary.run_sql(WAITING_FOR_STANDBY) == "1")
            cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await asyncio.to_thread(pair.primary.run_sql, cancel)
            with pytest.raises(OutcomeUnknown):
                await writing
        finally:
            await asyncio.to_thread(pair.replica.resume)
        (made,) = await sooner_or_later(lambda: store.add_many([new]))
        assert made.id == new.id


async def test_commits_that_hang_keep_no_reader_waiting_and_the_next_writer_not_for_long(
    synchronous_postgresql_pair: PostgresqlPair,
) -> None:
    pair = synchronous_postgresql_pair
    way = await migrated(pair.primary.fresh_database(), *pair.members)
    async with opened(open_store(way)) as store:
        await store.add_many([draft("cat")])
        await asyncio.to_thread(pair.replica.pause)
        try:
            writes = [asyncio.create_task(store.add_many([draft(f"code-{n}")])) for n in range(4)]
            await until(lambda: pair.primary.run_sql(WAITING_FOR_STANDBY) == "4")
            async with time_limit(1):
                assert "cat" in await store.find_many(["cat"])
            async with time_limit(2):
                with pytest.raises(StoreUnavailable):
                    await store.add_many([draft("one-too-many")])
        finally:
            await asyncio.to_thread(pair.replica.resume)
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(outcome, list | OutcomeUnknown) for outcome in outcomes)


async def next_of(told: "asyncio.Queue[str]", seconds: float) -> str:
    async with asyncio.timeout(seconds):
        return await told.get()


async def test_a_change_on_one_replica_is_told_on_another_within_a_second(
    postgresql: Postgresql, database: str
) -> None:
    way = await migrated(database, postgresql)
    async with opened(postgresql_store(way, drawing())) as one, opened(postgresql_store(way, drawing())) as other:
        await one.add_many([draft("cat")])
        async with listening(other) as told:
            assert await next_of(told, 5) == "connected"
            await one.change("cat", Change(enabled=False), later())
            assert await next_of(told, 1) == "cat"
            await one.delete("cat", NOW)
            assert await next_of(told, 1) == "cat"


async def test_a_listener_is_told_when_the_notifications_stop_and_when_they_flow_again(
    own_postgresql: Postgresql,
) -> None:
    way = await migrated(own_postgresql.fresh_database(), own_postgresql)
    async with opened(open_store(way)) as store, listening(store) as told:
        await store.add_many([draft("cat")])
        assert await next_of(told, 5) == "connected"
        await asyncio.to_thread(own_postgresql.kill)
        assert await next_of(told, 1) == "lost"
        await asyncio.to_thread(own_postgresql.start)
        assert await next_of(told, 5) == "connected, missed "
        await asyncio.to_thread(own_postgresql.pause)
        assert await next_of(told, 2.5) == "lost"
        await asyncio.to_thread(own_postgresql.resume)
        assert await next_of(told, 10) == "connected, missed "
        await sooner_or_later(lambda: store.change("cat", Change(enabled=False), later()))
        assert await next_of(told, 2) == "cat"


async def test_a_listener_that_is_back_is_told_what_was_changed_meanwhile(
    postgresql: Postgresql, database: str
) -> None:
    """By the clock of the database, whatever the clocks of those who change and repeat say."""
    way = await migrated(database, postgresql)
    late = SqlLinkStore(PostgresqlDatabase(way), now=lambda: NOW - timedelta(days=3))
    async with opened(late) as store, listening(store) as told:
        assert await next_of(told, 5) == "connected"
        changed, *others = (draft(code) for code in ("changed", "deleted", "changed-long-ago", "never-changed"))
        await store.add_many([changed, *others])
        await store.change("changed", Change(enabled=False), NOW)
        await store.add_many([changed])
        await store.delete("deleted", NOW)
        await store.change("changed-long-ago", Change(enabled=False), NOW)
        postgresql.run_sql(
            "UPDATE links SET touched_at = now() - interval '20 minutes' WHERE code = 'changed-long-ago'",
            database=database,
        )
        assert [await next_of(told, 2) for _ in range(3)] == ["changed", "deleted", "changed-long-ago"]
        _end_listening(postgresql, database)
        assert await next_of(told, 2) == "lost"
        assert await next_of(told, 5) == "connected, missed changed,deleted"


async def test_a_process_that_was_frozen_is_told_what_was_changed_since_it_last_heard(
    postgresql: Postgresql, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_listening, "MARGIN", timedelta(0))
    way = await migrated(database, postgresql)
    async with opened(open_store(way)) as store, listening(store) as told:
        assert await next_of(told, 5) == "connected"
        await store.add_many([draft("cat")])
        # nothing of ours runs meanwhile
        postgresql.run_sql(
            "SELECT pg_sleep(0.1)",
            "UPDATE links SET version = 2, touched_at = now() WHERE code = 'cat'",
            database=database,
        )
        _end_listening(postgresql, database)
        time.sleep(1.5)
        assert await next_of(told, 2) == "lost"
        assert await next_of(told, 5) == "connected, missed cat"


async def test_a_listener_is_told_that_too_much_was_changed(
    postgresql: Postgresql, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_listening, "MOST_CHANGED", 1)
    way = await migrated(database, postgresql)
    async with opened(open_store(way)) as store, listening(store) as told:
        assert await next_of(told, 5) == "connected"
        for code in ("cat", "dog"):
            await store.add_many([draft(code)])
            _end_listening(postgresql, database)
            assert await next_of(told, 2) == "lost"
            assert await next_of(told, 5) == "connected, missed "
        for code, expected in (("cat", "connected, missed cat"), ("dog", "connected")):
            await store.change(code, Change(enabled=False), NOW)
            assert await next_of(told, 2) == code
            _end_listening(postgresql, database)
            assert await next_of(told, 2) == "lost"
            assert await next_of(told, 5) == expected


async def migrated_and_replicated(pair: PostgresqlPair) -> tuple[Servers, Servers]:
    """A new database's primary and its replica."""
    database = pair.primary.fresh_database()
    way = await migrated(database, pair.primary)
    pair.wait_until_replicating()
    return way, servers(database, pair.replica)


async def test_a_replica_is_current_while_it_has_replayed_what_listeners_were_told_of(
    postgresql_pair: PostgresqlPair,
) -> None:
    pair = postgresql_pair
    way, read_way = await migrated_and_replicated(pair)

    async def is_current() -> bool:
        return (await store.find_many_on_replica(["cat"]))["cat"].is_current

    async with opened(open_store(way, read_way)) as store:
        await store.add_many([draft("cat")])
        await sooner_or_later(lambda: store.find_many_on_replica(["cat"]))
        assert not await is_current(), "nobody listens"
        async with listening(store) as told:
            assert await next_of(told, 5) == "connected"
            await until_true(is_current)
            pair.replica.run_sql("SELECT pg_wal_replay_pause()")
            try:
                await store.change("cat", Change(enabled=False), NOW)
                await until_true(is_current, False)
            finally:
                pair.replica.run_sql("SELECT pg_wal_replay_resume()")
            await until_true(is_current)
        await until_true(is_current, False)


async def test_a_replica_says_how_far_it_is_before_it_tells_its_rows(
    postgresql_pair: PostgresqlPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes in between is in the rows. The other way round, rows from before would pass for current."""
    pair = postgresql_pair
    way, read_way = await migrated_and_replicated(pair)
    is_current = PostgresqlDatabase.is_current

    async def first_let_it_catch_up(self: PostgresqlDatabase, connection: AsyncConnection) -> bool:
        pair.replica.run_sql("SELECT pg_wal_replay_resume()")
        await asyncio.to_thread(pair.wait_until_replicating)
        return await is_current(self, connection)

    async with opened(open_store(way, read_way)) as store, listening(store) as told:
        assert await next_of(told, 5) == "connected"
        await store.add_many([draft("cat")])
        await asyncio.to_thread(pair.wait_until_replicating)
        await sooner_or_later(lambda: store.find_many_on_replica(["cat"]))
        pair.replica.run_sql("SELECT pg_wal_replay_pause()")
        try:
            await store.change("cat", Change(enabled=False), NOW)
            monkeypatch.setattr(PostgresqlDatabase, "is_current", first_let_it_catch_up)
            found = (await store.find_many_on_replica(["cat"]))["cat"]
        finally:
            pair.replica.run_sql("SELECT pg_wal_replay_resume()")
        assert not found.link.enabled


async def until_true(ask: Callable[[], Awaitable[bool]], expected: bool = True) -> None:
    async with asyncio.timeout(5):
        while await ask() is not expected:
            await asyncio.sleep(0.02)


def _end_listening(server: Postgresql, database: str) -> None:
    server.run_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")


async def test_what_was_changed_is_found_by_its_index(postgresql: Postgresql, database: str) -> None:
    """Of many links, few of which were ever changed."""
    await migrated(database, postgresql)
    postgresql.run_sql(
        "INSERT INTO links (id, code, target, created_at, updated_at, touched_at, version)"
        " SELECT gen_random_uuid(), 'code' || n, 'https://x.example/', now(), now(), now(), 1 + (n % 1000 = 0)::int"
        " FROM generate_series(1, 20000) AS n; ANALYZE links",
        database=database,
    )
    statement = postgresql_listening.CHANGED.replace("$1", "now() - interval '10 minutes'").replace("$2", "10001")
    plan = postgresql.run_sql(f"EXPLAIN {statement}", database=database)
    assert "links_changed" in plan
    assert "Seq Scan" not in plan
