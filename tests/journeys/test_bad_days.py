"""One back end is restarted, or killed and comes back, while visitors follow links: what they and the counts see.

It is away for a second here. The long form, ten minutes for example, prints how long visitors waited:

    AWAY_SECONDS=600 make test ARGS="-s tests/journeys/test_bad_days.py -k Redis"
"""

import asyncio
import collections
import contextlib
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from tests.backends.postgresql import Postgresql
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis
from tests.conftest import installed
from tests.journeys.systems import System, two_services
from tests.journeys.test_the_road import made, until_counted
from urlshortener.links.postgresql import WRITE_SECONDS

_REDIRECTS_A_SECOND = 200
_AWAY_SECONDS = float(os.environ.get("AWAY_SECONDS", "1"))

Servers = tuple[System, Postgresql, Rabbitmq, Redis]


@pytest.fixture(scope="module")
def servers(breakable_rabbitmq: Rabbitmq) -> Iterator[Servers]:
    """Two services on servers of their own. Each test leaves them as it found them: running."""
    with (
        installed(),
        Postgresql("bad-days-postgresql") as postgresql,
        Redis("bad-days-redis") as redis,
    ):
        rabbitmq = breakable_rabbitmq
        for server in (postgresql, redis):
            server.start()
        system = two_services(
            postgresql, postgresql.fresh_database(), rabbitmq, rabbitmq.fresh_vhost(), redis, redis.fresh_database()
        )
        try:
            system.start()
            yield system, postgresql, rabbitmq, redis
        finally:
            system.close()


class Visitors:
    """A steady stream of visitors of known links, each on time, whoever is slow."""

    def __init__(self, system: System, codes: list[str]) -> None:
        self._system = system
        self._codes = itertools.cycle(codes)
        self.answered: collections.Counter[str] = collections.Counter()
        self.failed: list[str] = []
        self.took_ms: list[float] = []
        self.is_over = False

    async def come(self) -> None:
        async with (
            httpx.AsyncClient(base_url=self._system.shortener, timeout=10) as client,
            asyncio.TaskGroup() as group,
        ):
            began = time.monotonic()
            for number in itertools.count():
                await asyncio.sleep(began + number / _REDIRECTS_A_SECOND - time.monotonic())
                if self.is_over:
                    return
                group.create_task(self._one(client, next(self._codes)))

    @property
    def waited(self) -> str:
        percentiles = statistics.quantiles(self.took_ms, n=1000)
        return f"p50 {percentiles[499]:.1f}, p99 {percentiles[989]:.1f}, longest {max(self.took_ms):.1f} ms"

    async def _one(self, client: httpx.AsyncClient, code: str) -> None:
        began = time.monotonic()
        try:
            answer = await client.get(f"/{code}")
        except httpx.HTTPError as error:
            self.failed.append(type(error).__name__)
            return
        self.took_ms.append(1000 * (time.monotonic() - began))
        if answer.status_code == 307:
            self.answered[code] += 1
        else:
            self.failed.append(str(answer.status_code))


@contextlib.asynccontextmanager
async def visited(system: System, codes: list[str]) -> AsyncIterator[Visitors]:
    """Visitors come while this is open; those under way are answered before it ends."""
    visitors = Visitors(system, codes)
    task = asyncio.create_task(visitors.come())
    try:
        yield visitors
        await asyncio.sleep(1)  # visitors of the time after
    finally:
        visitors.is_over = True
        await task


@pytest.mark.timeout(120 + 3 * _AWAY_SECONDS)
@pytest.mark.parametrize("breaks", ["restarted", "killed"])
@pytest.mark.parametrize("which", ["PostgreSQL", "RabbitMQ", "Redis"])
async def test_a_back_end_goes_and_comes_back_and_nothing_is_lost(servers: Servers, which: str, breaks: str) -> None:
    system, *backends = servers
    backend = dict(zip(("PostgreSQL", "RabbitMQ", "Redis"), backends, strict=True))[which]
    codes = [made(system, f"https://example.com/{number}") for number in range(20)]
    go: Callable[[], None] = backend.stop if breaks == "restarted" else backend.kill
    async with visited(system, codes) as visitors:
        await asyncio.sleep(1)
        await asyncio.to_thread(go)
        await asyncio.sleep(_AWAY_SECONDS)
        await asyncio.to_thread(backend.start)
        back = time.monotonic()
        await _until_made(system)
        made_again = time.monotonic() - back
    expected = dict(visitors.answered)
    assert not visitors.failed
    assert await until_counted(system, expected, 40 + _AWAY_SECONDS) == expected
    letters = await asyncio.to_thread(system.analytics_process.ask, "dead-letters", "show")
    assert letters.stdout == "There are no dead letters.\n", letters.stderr
    missing = await asyncio.to_thread(system.analytics_process.ask, "reconcile", "--older-than", "0")
    assert missing.returncode == 0, missing.stdout
    print(
        f"\n{which} {breaks}, away {_AWAY_SECONDS:g} s: {sum(expected.values())} redirects, none failed,"
        f" {visitors.waited}; a link could be made {made_again:.1f} s after it was back,"
        f" all was counted {time.monotonic() - back:.1f} s after"
    )


async def _until_made(system: System) -> None:
    """A link can be made again, within seconds."""
    end = time.monotonic() + 20
    async with httpx.AsyncClient(base_url=system.shortener, timeout=10) as client:
        while True:
            answer = await client.post("/api/v1/urls", json={"url": "https://example.com/"})
            if answer.status_code == 201:
                return
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < end, "no link could be made within 20 s"
            await asyncio.sleep(0.1)


async def test_while_the_database_is_away_known_links_redirect_and_others_are_told_to_come_again(
    servers: Servers,
) -> None:
    system, postgresql, *_ = servers
    code = made(system)
    assert httpx.get(f"{system.shortener}/{code}").status_code == 307
    await asyncio.to_thread(postgresql.kill)
    try:
        await _known_links_redirect_and_others_come_again(system, code)
    finally:
        await asyncio.to_thread(postgresql.start)


async def _known_links_redirect_and_others_come_again(system: System, code: str) -> None:
    began = time.monotonic()
    cold = httpx.get(f"{system.shortener}/unknown1")
    assert (cold.status_code, cold.json()["code"]) == (503, "STORE_UNAVAILABLE")
    assert "retry-after" in cold.headers
    assert time.monotonic() - began < 1.5
    assert httpx.get(f"{system.shortener}/{code}").status_code == 307
    assert httpx.get(f"{system.shortener}/ready").status_code == 200
    create = httpx.post(f"{system.shortener}/api/v1/urls", json={"url": "https://example.com/"}, timeout=10)
    assert (create.status_code, "retry-after" in create.headers) == (503, True)
    assert await until_counted(system, {code: 2}, 10) == {code: 2}  # counts ask no database


async def test_while_the_primary_hangs_a_create_is_answered_within_8_s_and_is_made_though_nobody_waits(
    servers: Servers,
) -> None:
    system, postgresql, *_ = servers
    async with httpx.AsyncClient(base_url=system.shortener, timeout=15) as client:
        made(system)  # so that a connection stands, in whose answer the create hangs
        await asyncio.to_thread(postgresql.pause)
        try:
            began = time.monotonic()
            answer = await _create(client, "patient")
            assert time.monotonic() - began < 8
            assert (answer.status_code, answer.json()["code"]) == (503, "OUTCOME_UNKNOWN")
            assert "retry-after" in answer.headers
        finally:
            await asyncio.to_thread(postgresql.resume)
        await _until_found(client, "patient")


async def test_a_create_whose_visitor_leaves_while_the_primary_hangs_is_made(servers: Servers) -> None:
    system, postgresql, *_ = servers
    async with httpx.AsyncClient(base_url=system.shortener, timeout=15) as client:
        made(system)
        await asyncio.to_thread(postgresql.pause)
        try:
            hasty = asyncio.create_task(_create(client, "hasty"))
            await asyncio.sleep(0.5)
            hasty.cancel()  # which closes its connection
            await asyncio.sleep(WRITE_SECONDS)  # so that its first attempt is given up, its outcome unknown
        finally:
            await asyncio.to_thread(postgresql.resume)
        await _until_found(client, "hasty")


async def _create(client: httpx.AsyncClient, code: str) -> httpx.Response:
    return await client.post("/api/v1/urls", json={"url": "https://example.com/", "code": code})


async def _until_found(client: httpx.AsyncClient, code: str) -> None:
    """It comes to be by itself: nobody asks for it a second time."""
    end = time.monotonic() + 20
    while (answer := await client.get(f"/api/v1/urls/{code}")).status_code != 200:
        assert answer.status_code in (404, 503), answer.text
        assert time.monotonic() < end, f"{code} was not made within 20 s"
        await asyncio.sleep(0.1)
