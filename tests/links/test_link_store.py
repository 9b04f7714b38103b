"""What every store of links promises, asked of each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tests.backends.postgresql import PostgresqlPair
from tests.links.stores import NOW, draft, drawing, keyed, later, listening, opened, servers
from urlshortener.errors import CodeTaken, InvalidUrl, KeyReused, NotToCome, Refused, StoreUnavailable
from urlshortener.links import migrations, postgresql, sqlite
from urlshortener.links.link import Change, Draft, Link
from urlshortener.links.schema import idempotency_keys, links
from urlshortener.links.sql_store import Database, SqlLinkStore
from urlshortener.links.store import PageMark


@dataclass
class Kind:
    """One kind of database with its tables in it."""

    name: str
    connect: Callable[[], Database]
    catch_up: Callable[[], None] = lambda: None  # until the replica has everything


@pytest.fixture(scope="session")
def shared_pair() -> Iterator[PostgresqlPair]:
    """A primary and a replica for all tests of this file, which do not break it."""
    with PostgresqlPair() as pair:
        pair.start()
        yield pair


@pytest.fixture(params=["sqlite", "postgresql", "postgresql with a replica"])
async def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    match request.param:
        case "sqlite":
            path = tmp_path / "links.db"
            await sqlite.migrate(path)
            return Kind("sqlite", lambda: sqlite.SqliteDatabase(path))
        case "postgresql":
            way = servers(request.getfixturevalue("database"), request.getfixturevalue("postgresql"))
            await postgresql.migrate(way)
            return Kind("postgresql", lambda: postgresql.PostgresqlDatabase(way))
        case _:
            pair: PostgresqlPair = request.getfixturevalue("shared_pair")
            name = pair.primary.fresh_database()
            way, near = servers(name, *pair.members), servers(name, pair.replica)
            await postgresql.migrate(way)
            return Kind("replica", lambda: postgresql.PostgresqlDatabase(way, near), pair.wait_until_replicating)


@pytest.fixture
async def connections(kind: Kind) -> Database:
    return kind.connect()


@pytest.fixture
async def store(connections: Database) -> AsyncIterator[SqlLinkStore]:
    async with opened(SqlLinkStore(connections)) as store:
        yield store


async def add(store: SqlLinkStore, new: Draft) -> Link:
    (answer,) = await store.add_many([new])
    assert isinstance(answer, Link)
    return answer


async def keys_in(connections: Database) -> set[str]:
    async def work(connection: Any) -> set[str]:
        return set((await connection.execute(sa.select(idempotency_keys.c.key))).scalars())

    return await connections.read(work)


async def touched(connections: Database, table: sa.Table) -> Any:
    async def work(connection: Any) -> Any:
        return (await connection.execute(sa.select(table.c.touched_at))).scalar_one()

    return await connections.read(work)


async def test_the_first_to_take_a_code_keeps_it(store: SqlLinkStore) -> None:
    await add(store, draft("cat", "https://first.example/"))
    (second,) = await store.add_many([draft("cat", "https://second.example/")])
    assert isinstance(second, CodeTaken)
    assert (await store.find_many(["cat"]))["cat"].target == "https://first.example/"


async def test_a_link_comes_back_as_it_was_made_to_the_microsecond(store: SqlLinkStore) -> None:
    new = draft(expires_at=later(3600.000001))
    made = await add(store, new)
    assert made == Link(new.id, "cat", new.target, NOW, NOW, new.expires_at)
    assert (await store.find_many(["cat", "dog"])) == {"cat": made}


async def test_codes_that_differ_in_case_are_two_codes(store: SqlLinkStore) -> None:
    answers = await store.add_many([draft("Cat"), draft("cat")])
    assert [answer.code for answer in answers] == ["Cat", "cat"]


async def test_a_replica_tells_a_link_and_who_told_it(kind: Kind, store: SqlLinkStore) -> None:
    made = await add(store, draft())
    await asyncio.to_thread(kind.catch_up)
    found = await store.find_many_on_replica(["cat"])
    assert found["cat"].link == made
    assert found["cat"].is_current is (kind.name != "replica")
    assert store.has_replica is (kind.name == "replica")


async def test_a_taken_code_fails_only_its_own_draft(store: SqlLinkStore) -> None:
    await add(store, draft("cat"))
    first, taken, last = await store.add_many([draft("ant"), draft("cat"), draft("dog")])
    assert isinstance(first, Link)
    assert isinstance(taken, CodeTaken)
    assert isinstance(last, Link)


async def test_a_row_that_the_database_refuses_fails_only_its_own_draft(store: SqlLinkStore) -> None:
    first, refused, last = await store.add_many([draft("ant"), keyed("half a \ud800", "bee"), draft("dog")])
    assert isinstance(first, Link)
    assert isinstance(refused, Refused)
    assert isinstance(last, Link)
    assert set(await store.find_many(["ant", "bee", "dog"])) == {"ant", "dog"}


async def test_a_link_is_found_as_it_was_made_whatever_stands_in_its_target(store: SqlLinkStore) -> None:
    made = await add(store, draft("cat", 'https://a.example/"},{"\\u0041?a=\'%27', expires_at=NOW + timedelta(days=1)))
    assert await store.find_many(["cat", '"', "dog"]) == {"cat": made}


async def test_a_target_that_no_browser_would_send_is_refused_at_write(store: SqlLinkStore) -> None:
    (refused,) = await store.add_many([draft("cat", "https://a.example/\r\nSet-Cookie: x")])
    assert isinstance(refused, InvalidUrl)
    await add(store, draft())
    with pytest.raises(InvalidUrl):
        await store.change("cat", Change(target="javascript:alert(1)"), NOW)


@pytest.mark.parametrize(
    "target", ["https://a.example/\r\nSet-Cookie: x", 'https://a.example/"},{"\\\x7f', "https://é.example/"]
)
async def test_a_row_whose_target_is_not_safe_is_left_out_and_logged(
    store: SqlLinkStore, connections: Database, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    kept = await add(store, draft("ant"))
    await add(store, draft("cat"))

    async def spoil(connection: Any) -> None:
        await connection.execute(sa.update(links).where(links.c.code == "cat").values(target=target))

    await connections.write(spoil)
    assert await store.find_many(["ant", "cat"]) == {"ant": kept}
    assert "link_not_safe" in caplog.text


async def test_a_page_is_full_although_a_row_on_it_is_left_out(store: SqlLinkStore, connections: Database) -> None:
    for number in range(5):
        await add(store, draft(f"cat{number}", created_at=NOW + timedelta(seconds=number)))

    async def spoil(connection: Any) -> None:
        two = links.c.code.in_(["cat1", "cat3"])
        await connection.execute(sa.update(links).where(two).values(target="javascript:alert(1)"))

    await connections.write(spoil)
    assert [link.code for link in await store.page(2)] == ["cat4", "cat2"]
    assert [link.code for link in await store.page(3)] == ["cat4", "cat2", "cat0"]
    assert [link.code for link in await store.page(9)] == ["cat4", "cat2", "cat0"]


async def test_a_repeated_draft_gives_the_same_link_and_writes(store: SqlLinkStore, connections: Database) -> None:
    new = draft()
    made = await add(store, new)
    before = await touched(connections, links)
    assert await add(store, new) == made
    assert await touched(connections, links) > before


async def test_a_drawn_code_that_is_taken_is_drawn_again(connections: Database) -> None:
    async with opened(SqlLinkStore(connections, draw=drawing("cat", "fox"))) as store:
        await add(store, draft("cat"))
        made = await add(store, draft("cat", code_was_chosen=False))
        assert made.code == "fox"


async def test_a_draft_whose_code_was_drawn_again_finds_its_own_row_when_it_is_repeated(connections: Database) -> None:
    async with opened(SqlLinkStore(connections, draw=drawing("fox"))) as store:
        await add(store, draft("cat"))
        new = keyed("k", "cat", code_was_chosen=False)
        made = await add(store, new)
        before = await touched(connections, idempotency_keys)
        assert await add(store, new) == made
        assert await touched(connections, idempotency_keys) > before


async def test_a_code_is_not_drawn_for_ever(connections: Database) -> None:
    async with opened(SqlLinkStore(connections, draw=lambda: "cat")) as store:
        await add(store, draft("cat"))
        (answer,) = await store.add_many([draft("cat", code_was_chosen=False)])
        assert isinstance(answer, CodeTaken)


async def test_a_key_gives_the_link_of_then_as_it_is_now_and_writes(store: SqlLinkStore, connections: Database) -> None:
    await add(store, keyed("k", "cat"))
    before = await touched(connections, idempotency_keys)
    changed = await store.change("cat", Change(target="https://other.example/"), later())
    assert await add(store, keyed("k", "dog")) == changed
    assert await touched(connections, idempotency_keys) > before
    assert await store.find_many(["dog"]) == {}


async def test_a_key_gives_a_deleted_link_too(store: SqlLinkStore) -> None:
    await add(store, keyed("k", "cat"))
    await store.delete("cat", later())
    assert (await add(store, keyed("k", "cat"))).is_deleted


async def test_a_key_with_another_body_is_refused(store: SqlLinkStore) -> None:
    await add(store, keyed("k", "cat"))
    (refused,) = await store.add_many([keyed("k", "dog", b"another body")])
    assert isinstance(refused, KeyReused)


async def test_a_key_of_another_owner_is_another_key(store: SqlLinkStore) -> None:
    await add(store, keyed("k", "cat", owner="ann"))
    assert (await add(store, keyed("k", "dog", b"another body", owner="bob"))).code == "dog"


async def test_only_a_success_uses_a_key_up(store: SqlLinkStore, connections: Database) -> None:
    await add(store, draft("cat"))
    (refused,) = await store.add_many([keyed("k", "cat")])
    assert isinstance(refused, CodeTaken)
    assert await keys_in(connections) == set()
    assert (await add(store, keyed("k", "dog", b"another body"))).code == "dog"


async def test_who_comes_after_the_end_of_its_link_gets_only_what_its_key_made_before(
    store: SqlLinkStore, connections: Database
) -> None:
    end = later(60)
    late = [keyed("k", "cat", created_at=end, expires_at=end), draft("dog")]
    refused, kept = await store.add_many(late)
    assert isinstance(refused, NotToCome)
    assert isinstance(kept, Link)
    assert await keys_in(connections) == set()
    made = await add(store, keyed("k", "cat", expires_at=end))
    assert await add(store, keyed("k", "fox", created_at=later(86_400), expires_at=end)) == made


async def test_a_key_is_free_again_after_thirty_days(store: SqlLinkStore) -> None:
    await add(store, keyed("k", "cat"))
    almost = NOW + timedelta(days=30) - timedelta(seconds=1)
    (replayed,) = await store.add_many([keyed("k", "dog", created_at=almost)])
    assert isinstance(replayed, Link)
    assert replayed.code == "cat"
    new = keyed("k", "dog", b"another body", created_at=NOW + timedelta(days=30))
    assert (await add(store, new)).code == "dog"
    assert (await add(store, replace(new, id=uuid4(), code="fox"))).code == "dog"


async def test_twins_of_a_code_are_as_one_after_the_other(connections: Database) -> None:
    async with opened(SqlLinkStore(connections, draw=drawing("fox"))) as store:
        first, second, third = await store.add_many(
            [draft("cat", "https://first.example/"), draft("cat"), draft("cat", code_was_chosen=False)]
        )
        assert isinstance(first, Link)
        assert first.target == "https://first.example/"
        assert isinstance(second, CodeTaken)
        assert isinstance(third, Link)
        assert third.code == "fox"


async def test_twins_of_a_key_are_as_one_after_the_other(store: SqlLinkStore) -> None:
    first, second, third = await store.add_many([keyed("k", "cat"), keyed("k", "dog"), keyed("k", "fox", b"other")])
    assert isinstance(first, Link)
    assert second == first
    assert isinstance(third, KeyReused)


async def test_the_key_of_a_refused_twin_is_free_for_the_next(store: SqlLinkStore) -> None:
    _, taken, next_one = await store.add_many([draft("cat"), keyed("k", "cat"), keyed("k", "dog", b"other")])
    assert isinstance(taken, CodeTaken)
    assert isinstance(next_one, Link)
    assert next_one.code == "dog"


async def test_the_same_draft_twice_in_a_batch_is_one_link(store: SqlLinkStore) -> None:
    new = draft()
    first, second = await store.add_many([new, new])
    assert first == second


async def test_a_large_batch_is_answered_in_its_order(store: SqlLinkStore) -> None:
    drafts = [keyed(f"k{(n * 7919) % 1500}", f"code-{(n * 7919) % 1500}") for n in range(1500)]
    answers = await store.add_many(drafts)
    assert [answer.code for answer in answers] == [new.code for new in drafts]
    assert len(await store.find_many([new.code for new in drafts])) == 1500


async def test_a_change_changes_what_it_names_and_nothing_else(store: SqlLinkStore) -> None:
    made = await add(store, draft(expires_at=later(60)))
    changed = await store.change("cat", Change(enabled=False), later())
    assert changed == replace(made, enabled=False, updated_at=later(), version=2)
    changed = await store.change("cat", Change(expires_at=None), later(2))
    assert changed == replace(made, enabled=False, expires_at=None, updated_at=later(2), version=3)
    assert await store.find_many(["cat"]) == {"cat": changed}


async def test_the_time_of_a_change_never_goes_back(store: SqlLinkStore) -> None:
    await add(store, draft())
    await store.change("cat", Change(enabled=False), later(60))
    changed = await store.change("cat", Change(enabled=True), later(1))
    assert changed is not None
    assert changed.updated_at == later(60)
    assert changed.version == 3


async def test_a_link_that_is_not_there_cannot_be_changed_or_deleted(store: SqlLinkStore) -> None:
    assert await store.change("cat", Change(enabled=False), NOW) is None
    assert await store.delete("cat", NOW) is False


async def test_a_deleted_link_keeps_its_code_and_cannot_be_changed(store: SqlLinkStore) -> None:
    await add(store, draft())
    assert await store.delete("cat", later()) is True
    assert await store.delete("cat", later()) is False
    assert await store.change("cat", Change(enabled=True), later()) is None
    (again,) = await store.add_many([draft("cat")])
    assert isinstance(again, CodeTaken)
    deleted = (await store.find_many(["cat"]))["cat"]
    assert deleted.deleted_at == later()
    assert deleted.version == 2


async def test_changes_at_once_are_each_counted_in_the_version(store: SqlLinkStore) -> None:
    await add(store, draft())
    await asyncio.gather(*(store.change("cat", Change(enabled=n % 2 == 0), later(n)) for n in range(10)))
    assert (await store.find_many(["cat"]))["cat"].version == 11


async def test_pages_show_every_link_that_is_not_deleted_once_newest_first(store: SqlLinkStore) -> None:
    drafts = [draft(f"code-{n}", created_at=later(n // 3)) for n in range(20)]
    await store.add_many(drafts)
    await store.delete("code-7", later())
    seen: list[Link] = []
    while page := await store.page(4, PageMark(seen[-1].created_at, seen[-1].id) if seen else None):
        assert len(page) <= 4
        seen += page
    expected = sorted((new for new in drafts if new.code != "code-7"), key=lambda new: (new.created_at, new.id))
    assert [link.code for link in seen] == [new.code for new in reversed(expected)]


@pytest.mark.parametrize("code", ["", "a\0b", "\ud800", "x" * 70, "a b", "ö"])
async def test_what_cannot_be_a_code_is_never_found_and_troubles_nobody(store: SqlLinkStore, code: str) -> None:
    made = await add(store, draft())
    assert await store.find_many([code, "cat"]) == {"cat": made}
    assert set(await store.find_many_on_replica([code])) == set()
    assert await store.change(code, Change(enabled=False), NOW) is None
    assert await store.delete(code, NOW) is False


async def test_nothing_is_asked_of_an_empty_batch(store: SqlLinkStore) -> None:
    assert await store.add_many([]) == []
    assert await store.find_many([]) == {}


async def test_it_answers_a_ping(store: SqlLinkStore) -> None:
    await store.ping()


async def test_a_cancelled_caller_leaves_the_write_to_its_end(store: SqlLinkStore) -> None:
    for n in range(5):
        caller = asyncio.create_task(store.add_many([draft(f"code-{n}")]))
        await asyncio.sleep(0.001 * n)
        if caller.cancel():  # a quick disk may have kept it already
            with pytest.raises(asyncio.CancelledError):
                await caller
    started = [f"code-{n}" for n in range(1, 5)]  # the first was cancelled before it began
    await until(lambda: all_found(store, started))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0.01)


async def all_found(store: SqlLinkStore, codes: list[str]) -> bool:
    return set(await store.find_many(codes)) == set(codes)


async def test_changes_and_deletions_are_told_to_a_listener_and_creations_are_not(store: SqlLinkStore) -> None:
    async with listening(store) as told, asyncio.timeout(5):
        assert await told.get() == "connected"
        await store.add_many([draft("cat"), draft("dog")])
        await store.change("cat", Change(enabled=False), later())
        await store.delete("nobody", later())
        await store.delete("dog", later())
        assert [await told.get(), await told.get()] == ["cat", "dog"]
        assert told.empty()


async def test_a_database_that_is_not_migrated_is_unavailable_in_our_words(tmp_path: Path) -> None:
    async with opened(sqlite.open_store(tmp_path / "empty.db")) as store:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.find_many(["cat"])


def test_the_outcome_of_a_migration_is_a_sentence() -> None:
    assert str(migrations.MigrationOutcome(None, "0001")) == "The links database was brought from nothing to 0001."


async def test_keys_are_forgotten_when_their_thirty_days_are_over_and_no_sooner(
    store: SqlLinkStore, connections: Database
) -> None:
    await add(store, keyed("old", "cat"))
    await add(store, keyed("young", "dog", created_at=later(1)))
    is_over = NOW + timedelta(days=30)
    assert await store.forget_old_keys(is_over - timedelta(microseconds=1), 10) == 0
    assert await store.forget_old_keys(is_over, 10) == 1
    assert await keys_in(connections) == {"young"}
    assert set(await store.find_many(["cat", "dog"])) == {"cat", "dog"}


async def test_no_more_keys_are_forgotten_at_once_than_asked_for_the_oldest_first(
    store: SqlLinkStore, connections: Database
) -> None:
    await store.add_many([keyed(f"key{day}", f"code{day}", created_at=later(day)) for day in range(5)])
    assert await store.forget_old_keys(NOW + timedelta(days=31), 3) == 3
    assert await keys_in(connections) == {"key3", "key4"}


async def test_several_sweeps_at_once_forget_each_key_once(kind: Kind, store: SqlLinkStore) -> None:
    await store.add_many([keyed(f"key{number}", f"code{number}") for number in range(40)])
    is_over = NOW + timedelta(days=30)
    forgotten = await asyncio.gather(*(store.forget_old_keys(is_over, 10) for _ in range(4)))
    while more := await store.forget_old_keys(is_over, 10):  # what the four left to each other
        forgotten.append(more)
    assert sum(forgotten) == 40


async def test_a_key_that_is_used_again_while_old_ones_are_forgotten_stays(store: SqlLinkStore) -> None:
    is_over = NOW + timedelta(days=30)
    await add(store, keyed("k", "cat"))
    new = keyed("k", "dog", b"another body", created_at=is_over)
    await asyncio.gather(add(store, new), store.forget_old_keys(is_over, 10))
    assert (await add(store, new)).code == "dog"
    assert (await add(store, keyed("k", "cow", b"another body", created_at=is_over))).code == "dog"
