"""What a store of links takes for a lookup, a create and a page, however many links it holds."""

import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from bench.harness import traffic
from urlshortener.links import code as codes
from urlshortener.links.link import Draft, Link
from urlshortener.links.store import LinkStore, PageMark

_PAGE = 100
_BATCH = 64
_MADE_FROM = datetime(2026, 1, 1, tzinfo=UTC)  # a millisecond a link, as harness/links.py makes them


async def milliseconds(store: LinkStore, links: int, times: int = 200) -> Mapping[str, float]:
    """The median of so many calls each, among so many links."""
    read = await milliseconds_to_read(store, links, times)
    return {**read, **await milliseconds_to_create(store, links, times)}


async def milliseconds_to_read(store: LinkStore, links: int, times: int = 200) -> Mapping[str, float]:
    """Each time others are looked up."""

    async def look_up() -> None:
        wanted = [traffic.code_of(random.randint(1, links)) for _ in range(_BATCH)]
        assert len(await store.find_many(wanted)) == len(set(wanted))

    async def miss() -> None:
        assert not await store.find_many([codes.draw() for _ in range(_BATCH)])

    async def newest() -> None:
        assert len(await store.page(_PAGE)) == _PAGE

    async def deep() -> None:
        middle = _MADE_FROM + timedelta(milliseconds=links / 2)
        assert len(await store.page(_PAGE, PageMark(middle, uuid4()))) == _PAGE

    return {
        f"{_BATCH} lookups": await _median(look_up, times),
        f"{_BATCH} lookups of unknown codes": await _median(miss, times),
        "the newest page": await _median(newest, times),
        "a page in the middle": await _median(deep, times),
    }


async def milliseconds_to_create(store: LinkStore, links: int, times: int = 200) -> Mapping[str, float]:
    """Afterwards there are more than so many links."""

    async def create() -> None:
        now = datetime.now(UTC)
        drafts = [Draft(uuid4(), codes.draw(), traffic.target_of(1), now) for _ in range(_BATCH)]
        assert all(isinstance(made, Link) for made in await store.add_many(drafts))

    return {f"{_BATCH} creates": await _median(create, times)}


async def _median(call: Callable[[], Awaitable[None]], times: int) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)
