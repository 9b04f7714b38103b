"""Batches of drafts against a model of what "one after the other" means; and two replicas at once."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.links.stores import draft, servers
from urlshortener.errors import CodeTaken, KeyReused, Refused
from urlshortener.links import postgresql, sqlite
from urlshortener.links.link import Draft, Link
from urlshortener.links.schema import idempotency_keys, links
from urlshortener.links.sql_store import Database, SqlLinkStore

_NEW = st.builds(
    lambda code, key, body, chosen: draft(code, key=key, body_digest=body, code_was_chosen=chosen),
    st.sampled_from(["ant", "bee", "cat", "dog"]),
    st.sampled_from([None, None, "k1", "k2", "k3"]),
    st.sampled_from([b"one", b"two"]),
    st.booleans(),
)
_STEPS = st.lists(st.lists(st.one_of(_NEW, st.integers(0, 30)), min_size=1, max_size=6), min_size=1, max_size=5)


def batches_of(steps: Sequence[Sequence[Draft | int]]) -> list[list[Draft]]:
    """The batches, with each number replaced by an earlier draft, which so is repeated."""
    earlier: list[Draft] = []
    batches = []
    for step in steps:
        batch = [earlier[one % len(earlier)] if isinstance(one, int) else one for one in step]
        earlier += batch
        batches.append(batch)
    return batches


def without_dangling(steps: list[list[Draft | int]]) -> list[list[Draft | int]]:
    """A number needs a draft before it."""
    seen = False
    kept: list[list[Draft | int]] = []
    for step in steps:
        kept.append([one for one in step if seen or not isinstance(one, int)])
        seen = seen or any(not isinstance(one, int) for one in step)
    return kept


STEPS = _STEPS.map(without_dangling).map(batches_of)


@dataclass
class Model:
    """What a store does with drafts that come one after the other."""

    codes: set[str] = field(default_factory=set)
    keys: dict[str, tuple[UUID, bytes]] = field(default_factory=dict)
    made: set[UUID] = field(default_factory=set)

    def add(self, new: Draft) -> UUID | type[Refused]:
        if new.key in self.keys:
            link_id, body = self.keys[new.key]
            return link_id if body == new.body_digest else KeyReused
        if new.id in self.made:
            return new.id
        if new.code in self.codes and new.code_was_chosen:
            return CodeTaken
        self.codes.add(new.code)
        self.made.add(new.id)
        if new.key is not None:
            self.keys[new.key] = (new.id, new.body_digest)
        return new.id


def shape(answer: Link | Refused) -> UUID | type[Refused]:
    return answer.id if isinstance(answer, Link) else type(answer)


def never_the_same() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"drawn-{next(numbers)}"


async def empty(database: Database) -> None:
    async def work(connection: Any) -> None:
        await connection.execute(sa.delete(links))
        await connection.execute(sa.delete(idempotency_keys))

    await database.write(work)


@pytest.fixture(params=["sqlite", "postgresql"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Database]:
    if request.param == "sqlite":
        path = tmp_path / "links.db"
        asyncio.run(sqlite.migrate(path))
        return lambda: sqlite.SqliteDatabase(path)
    way = servers(request.getfixturevalue("database"), request.getfixturevalue("postgresql"))
    asyncio.run(postgresql.migrate(way))
    return lambda: postgresql.PostgresqlDatabase(way)


def test_batches_are_as_drafts_one_after_the_other(connect: Callable[[], Database]) -> None:
    with asyncio.Runner() as runner:
        connections = runner.run(_made(connect))

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(STEPS)
        def holds(batches: list[list[Draft]]) -> None:
            runner.run(follows_the_model(connections, batches))

        try:
            holds()
        finally:
            runner.run(connections.close())


async def _made(connect: Callable[[], Database]) -> Database:
    return connect()


async def follows_the_model(connections: Database, batches: list[list[Draft]]) -> None:
    await empty(connections)
    store, model = SqlLinkStore(connections, draw=never_the_same()), Model()
    for batch in batches:
        expected = [model.add(new) for new in batch]
        assert [shape(answer) for answer in await store.add_many(batch)] == expected
    kept = await store.page(100)
    assert {link.id for link in kept} == model.made


def test_two_replicas_at_once_agree_about_every_code_and_key(request: pytest.FixtureRequest) -> None:
    way = servers(request.getfixturevalue("database"), request.getfixturevalue("postgresql"))
    with asyncio.Runner() as runner:
        runner.run(postgresql.migrate(way))
        replicas = [runner.run(_made(lambda: postgresql.PostgresqlDatabase(way))) for _ in range(2)]

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(STEPS, STEPS)
        def holds(one: list[list[Draft]], other: list[list[Draft]]) -> None:
            runner.run(agree(replicas, (one, other)))

        try:
            holds()
        finally:
            for replica in replicas:
                runner.run(replica.close())


async def agree(replicas: Sequence[Database], lists: Sequence[list[list[Draft]]]) -> None:
    await empty(replicas[0])
    draw = never_the_same()
    stores = [SqlLinkStore(replica, draw=draw) for replica in replicas]

    async def play(store: SqlLinkStore, batches: list[list[Draft]]) -> list[tuple[Draft, Link | Refused]]:
        return [pair for batch in batches for pair in zip(batch, await store.add_many(batch), strict=True)]

    answered = list(itertools.chain(*await asyncio.gather(*map(play, stores, lists))))
    kept = {link.id: link for link in await stores[0].page(100)}
    assert len({link.code for link in kept.values()}) == len(kept)
    winners: dict[str, tuple[UUID, bytes]] = {}
    for new, answer in answered:
        if isinstance(answer, Link):
            assert kept[answer.id] == answer
            if new.key is not None:
                assert winners.setdefault(new.key, (answer.id, new.body_digest)) == (answer.id, new.body_digest)
        elif isinstance(answer, CodeTaken):
            assert new.code_was_chosen
            assert new.code in {link.code for link in kept.values()}
    assert {shape(answer) for _, answer in answered if isinstance(answer, Link)} == set(kept)
    again = await stores[1].add_many([new for new, answer in answered if isinstance(answer, Link)])
    assert [shape(answer) for answer in again] == [shape(answer) for _, answer in answered if isinstance(answer, Link)]
