"""What a look at the counts costs: after ten years, a thousand visits, thousands of codes as much as on the first day.

Not seconds are compared, which depend on the machine, but what a store has done: for SQLite the steps of its virtual
machine, for Redis each command that was executed, those within functions too.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.backends.redis import Redis
from tests.stats.test_stats_store import DAY, NOON, RETENTION, event
from urlshortener.events.event import AccessEvent
from urlshortener.stats.redis import RedisStats
from urlshortener.stats.redis_connection import RedisConnection, RedisServer
from urlshortener.stats.sqlite import SqliteStats
from urlshortener.stats.store import StatsStore

_QUARTER = DAY / 96
Look = Callable[[], Awaitable[Any]]


class Meter(Protocol):
    """A store, and what it does for a look at it."""

    @property
    def stats(self) -> StatsStore: ...

    async def cost_of(self, look: Look) -> dict[str, int]: ...


class SqliteMeter:
    def __init__(self, folder: Path) -> None:
        self.stats = SqliteStats(folder / "stats.db", retention=RETENTION)
        self._steps = 0
        for reader in self.stats._readers:
            reader.set_progress_handler(self._step, 1)

    def _step(self) -> int:
        self._steps += 1
        return 0

    async def cost_of(self, look: Look) -> dict[str, int]:
        for _ in self.stats._readers:  # each reads the schema before its first answer
            await look()
        before = self._steps
        await look()
        return {"steps": self._steps - before}


class RedisMeter:
    def __init__(self, server: Redis, database: int) -> None:
        self._server = server
        place = RedisServer(server.host, server.port, server.password, database=database)
        self.stats = RedisStats(RedisConnection(place), retention=RETENTION)

    def _calls(self) -> Counter[str]:
        commands = self._server.ask("INFO", "commandstats")
        return Counter({name: command["calls"] for name, command in commands.items()})

    async def cost_of(self, look: Look) -> dict[str, int]:
        before = self._calls()
        await look()
        cost = self._calls() - before
        return {name.removeprefix("cmdstat_"): calls for name, calls in cost.items() if name != "cmdstat_info"}


@pytest.fixture(params=["sqlite", "redis"])
async def meter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Meter]:
    made: Meter
    if request.param == "sqlite":
        made = SqliteMeter(tmp_path)
    else:
        made = RedisMeter(request.getfixturevalue("redis_server"), request.getfixturevalue("redis_database"))
    await made.stats.top(1, 0)  # loads the functions
    yield made
    await made.stats.close()


async def record(stats: StatsStore, events: list[AccessEvent]) -> None:
    for first in range(0, len(events), 500):
        await stats.record(events[first : first + 500])


async def test_the_counts_of_a_link_cost_the_same_after_ten_years_and_a_thousand_visits(meter: Meter) -> None:
    async def look() -> None:
        assert await meter.stats.of("cat")

    await record(meter.stats, [event(0, visitor="v")])
    cost = await meter.cost_of(look)
    years = [event(1 + n, at=NOON - n * 30 * DAY, visitor=f"v{n}") for n in range(120)]
    visits = [event(1000 + n, at=NOON + n * _QUARTER / 1000, visitor=f"v{n}") for n in range(1000)]
    await record(meter.stats, years + visits)
    assert await meter.cost_of(look) == cost
    assert sum(cost.values()) < 50


async def test_a_series_costs_its_days_and_not_the_visits_or_years_behind_it(meter: Meter) -> None:
    async def look() -> None:
        assert len(await meter.stats.quarters("cat", NOON - 7 * DAY, NOON + DAY)) == 8

    await record(meter.stats, [event(n, at=NOON - n * DAY) for n in range(8)])
    cost = await meter.cost_of(look)
    years = [event(100 + n, at=NOON - 8 * DAY - n * 30 * DAY) for n in range(1, 120)]
    visits = [event(1000 + n, at=NOON - (n % 8) * DAY) for n in range(1000)]
    others = [event(2000 + n, f"dog{n}", at=NOON - (n % 8) * DAY) for n in range(1000)]
    await record(meter.stats, years + visits + others)
    cost_now = await meter.cost_of(look)
    assert cost_now.keys() == cost.keys()
    # one step more for a neighbour's row behind the last of a day
    assert all(calls <= cost[name] + 8 * (name == "steps") for name, calls in cost_now.items())


async def test_a_page_costs_its_links_and_not_all_there_are(meter: Meter) -> None:
    async def look() -> None:
        assert len((await meter.stats.top(20, 10)).items) == 20

    await record(meter.stats, [event(n, f"code{n}") for n in range(40)])
    cost = await meter.cost_of(look)
    await record(meter.stats, [event(100 + n, f"code{n % 4000}") for n in range(5000)])
    assert await meter.cost_of(look) == cost
    assert all(calls <= 20 for name, calls in cost.items() if name != "steps")  # a command for each link, no more
