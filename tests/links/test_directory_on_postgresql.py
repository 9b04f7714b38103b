"""Remembered links over a real PostgreSQL: told of each other's changes, and followed while it is killed or hangs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.links.scripted_store import NOON, a_draft, until
from urlshortener import telemetry
from urlshortener.errors import StoreUnavailable
from urlshortener.links import directory as directory_module
from urlshortener.links import postgresql as links_in_postgresql
from urlshortener.links.directory import Directory
from urlshortener.links.link import Change, Link
from urlshortener.links.postgresql_connector import Servers

LONGEST_WAIT_SECONDS = 0.15


def place_of(server: Postgresql, database: str) -> Servers:
    return Servers(((server.host, server.port),), server.user, server.password, database)


@asynccontextmanager
async def opened(place: Servers, read_place: Servers | None = None) -> AsyncIterator[Directory]:
    store = links_in_postgresql.open_store(place, read_place)
    directory = Directory(store, cache_max_bytes=1 << 24, warm_links=100, stale_max=timedelta(hours=1))
    await directory.start()
    try:
        yield directory
    finally:
        await directory.stop()
        await store.close()


async def target_of(directory: Directory, code: str) -> str | None:
    link = await directory.follow(code)
    return link.target if link and link.is_live(NOON) else None


class Visitors:
    """Follow known links all the time. Every one of them must be answered, and soon."""

    def __init__(self, directory: Directory, links: list[Link]) -> None:
        self._directory = directory
        self._links = links
        self.waits: list[float] = []

    @asynccontextmanager
    async def visiting(self) -> AsyncIterator[None]:
        visits = asyncio.create_task(self._visit())
        try:
            yield
        finally:
            await asyncio.sleep(0)
            assert not visits.done() or visits.exception() is None, visits.exception()
            visits.cancel()
            await asyncio.gather(visits, return_exceptions=True)

    async def _visit(self) -> None:
        while True:
            await asyncio.gather(*map(self._follow, self._links))
            await asyncio.sleep(0.01)

    async def _follow(self, link: Link) -> None:
        began = time.perf_counter()
        assert await self._directory.follow(link.code) == link.destination
        self.waits.append(time.perf_counter() - began)


async def test_a_change_on_one_replica_is_seen_by_the_other_within_a_second(
    postgresql: Postgresql, database: str
) -> None:
    place = place_of(postgresql, database)
    await links_in_postgresql.migrate(place)
    async with opened(place) as one, opened(place) as other:
        await until(lambda: one.is_listening and other.is_listening)
        assert await other.follow("cat") is None
        created = await one.create(a_draft("cat"))
        assert await other.follow("cat") == created.destination, "a remembered miss answers by itself"

        await one.change("cat", Change(target="https://new.example/"), NOON)
        assert await target_of(one, "cat") == "https://new.example/"
        await until(lambda: other.known("cat") is None, within_seconds=1)
        assert await target_of(other, "cat") == "https://new.example/"

        assert await other.delete("cat", NOON)
        assert await target_of(other, "cat") is None
        await until(lambda: one.known("cat") is None, within_seconds=1)
        assert await target_of(one, "cat") is None
        assert await one.find("cat") is None


async def test_at_start_links_are_loaded_and_stay_fresh(postgresql: Postgresql, database: str) -> None:
    place = place_of(postgresql, database)
    await links_in_postgresql.migrate(place)
    async with opened(place) as one:
        links = await asyncio.gather(*(one.create(a_draft(f"code{number}")) for number in range(50)))
    async with opened(place) as other:
        assert [other.known(link.code) for link in links] == [link.destination for link in links]


async def test_a_link_is_found_though_the_replica_does_not_have_it_yet(postgresql_pair: PostgresqlPair) -> None:
    database = postgresql_pair.primary.fresh_database()
    place = place_of(postgresql_pair.primary, database)
    await links_in_postgresql.migrate(place)
    postgresql_pair.wait_until_replicating()
    async with opened(place) as one, opened(place, place_of(postgresql_pair.replica, database)) as other:
        await until(lambda: one.is_listening and other.is_listening)
        postgresql_pair.replica.run_sql("SELECT pg_wal_replay_pause()")
        created = await one.create(a_draft("cat"))
        assert await other.follow("cat") == created.destination
        await one.change("cat", Change(target="https://new.example/"), NOON)
        await until(lambda: other.known("cat") is None, within_seconds=1)
        assert await target_of(other, "cat") == "https://new.example/"
        postgresql_pair.replica.run_sql("SELECT pg_wal_replay_resume()")


@pytest.mark.parametrize(
    ("fault", "is_given_up"),
    [("killed", False), ("killed", True), ("paused", False), ("paused", True), ("restarted", False)],
)
async def test_known_links_are_followed_without_a_wait_whatever_happens_to_the_database(
    own_postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch, fault: str, *, is_given_up: bool
) -> None:
    if is_given_up:
        monkeypatch.setattr(directory_module, "UNHEARD_SECONDS", 0.1)
    place = place_of(own_postgresql, own_postgresql.fresh_database())
    await links_in_postgresql.migrate(place)
    async with opened(place) as directory:
        await until(lambda: directory.is_listening)
        links = await asyncio.gather(*(directory.create(a_draft(f"code{number}")) for number in range(20)))
        visitors = Visitors(directory, links)
        served_stale = telemetry.REGISTRY.get_sample_value("link_stale_served_total") or 0
        async with visitors.visiting():
            if fault == "restarted":
                await asyncio.to_thread(own_postgresql.stop)
                await asyncio.to_thread(own_postgresql.start)
            else:
                await asyncio.to_thread(own_postgresql.kill if fault == "killed" else own_postgresql.pause)
                await until(lambda: not directory.is_listening, within_seconds=5)
                for attempt in range(3):
                    began = time.perf_counter()
                    with pytest.raises(StoreUnavailable):
                        await directory.follow(f"unknown{attempt}")
                    assert time.perf_counter() - began < 1.0
                served_stale = (telemetry.REGISTRY.get_sample_value("link_stale_served_total") or 0) - served_stale
                assert (served_stale > 0) == is_given_up
                await asyncio.to_thread(own_postgresql.start if fault == "killed" else own_postgresql.resume)
            await until(lambda: directory.is_listening, within_seconds=10)
            await until(lambda: all(directory.known(link.code) for link in links), within_seconds=5)
        assert len(visitors.waits) > 100
        assert max(visitors.waits) < LONGEST_WAIT_SECONDS
        assert await directory.follow("unknown") is None
        assert (await directory.create(a_draft("new"))).destination == directory.known("new")
