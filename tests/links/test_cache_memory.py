"""What the memory of links takes, what is given up for room, and that holding millions does not stop the process."""

import gc
import random
import string
import tracemalloc
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.links.scripted_store import NOON, HandClock, a_link
from urlshortener.links.cache import LIFE_SECONDS, Cache, microseconds
from urlshortener.links.link import Link

_A_LINK_BYTES = 262  # a million in 250 MiB


def keep(cache: Cache, link: Link, *, from_primary: bool = True) -> bool:
    with cache.reading() as reading:
        return cache.keep(link, reading, from_primary=from_primary)


def listening(max_bytes: int, clock: HandClock | None = None) -> Cache:
    cache = Cache(max_bytes, clock or HandClock())
    cache.connected(None)
    return cache


def test_those_that_were_not_used_for_long_go_first() -> None:
    links = [a_link(code) for code in ("ant", "bee", "cat")]
    cache = listening(1 << 20)
    for link in links:
        keep(cache, link)
    cache._max_bytes = cache.bytes
    assert cache.live_target(b"ant", 0) is not None
    keep(cache, a_link("dog"))
    keep(cache, a_link("elk"))
    held = [code for code in ("ant", "bee", "cat", "dog", "elk") if cache._held(code)]
    assert held == ["ant", "dog", "elk"]


def test_one_that_is_larger_than_all_the_room_is_not_kept() -> None:
    cache = listening(300)
    keep(cache, a_link("cat", "https://example.org/" + "x" * 400))
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_cache_stays_below_its_bound_and_its_sum_is_that_of_its_entries() -> None:
    cache = listening(50_000)
    chance = random.Random(7)
    for _ in range(5000):
        code = str(chance.randrange(400))
        match chance.randrange(4):
            case 0:
                cache.forget(code)
            case 1:
                cache.changed(code)
            case _:
                keep(cache, a_link(code, "https://example.org/" + "x" * chance.randrange(500)))
        assert cache.bytes <= 50_000
    entries = cache._entries
    assert len(entries) == len(cache) > 20
    assert cache.bytes == sum(135 + len(code) + len(entry) for code, entry in entries.items())
    assert sorted(code for code in cache._ring if code) == sorted(entries)
    assert len(cache._ring) == len(cache._marks) == len(entries) + len(cache._free)


def _some_links(number: int) -> list[Link]:
    chance = random.Random(7)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    codes = ("".join(chance.choices(string.ascii_letters + string.digits, k=8)) for _ in range(number))
    target = "https://example.org/some/page"  # and up to 60 more: 59 bytes, about what people shorten
    return [Link(UUID(int=0), code, target + "x" * chance.randrange(60), at, at) for code in codes]


@pytest.mark.parametrize("number", [21_900, 43_600])
def test_the_estimate_of_bytes_is_what_python_takes_and_a_million_links_fit_in_250_mebibytes(number: int) -> None:
    """However full the dictionary happens to be: it doubles when it is two thirds full."""
    cache = listening(1 << 40)
    links = _some_links(number)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for link in links:
            keep(cache, link)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.85 * taken < cache.bytes < 1.25 * taken
    assert taken / number < _A_LINK_BYTES


def test_the_garbage_collector_looks_at_no_link() -> None:
    cache = listening(1 << 30)
    for link in _some_links(1000):
        keep(cache, link)
    assert not gc.is_tracked(cache._entries)
    assert not any(map(gc.is_tracked, cache._entries.values()))


def test_a_target_is_live_until_it_expires() -> None:
    cache = listening(1 << 20)
    expires_at = NOON + timedelta(microseconds=1)
    keep(cache, Link(UUID(int=0), "cat", "https://example.org/", NOON, NOON, expires_at))
    assert cache.live_target(b"cat", microseconds(NOON)) == b"https://example.org/"
    assert cache.live_target(b"cat", microseconds(expires_at)) is None
    known = cache.known("cat")
    assert known is not None and known.expires_at == expires_at


@pytest.mark.parametrize("over", [{"enabled": False}, {"deleted_at": NOON}])
def test_what_is_over_is_known_and_leads_nowhere(over: dict[str, object]) -> None:
    cache = listening(1 << 20)
    keep(cache, Link(UUID(int=0), "cat", "https://example.org/", NOON, NOON, **over))  # type: ignore[arg-type]
    assert cache.live_target(b"cat", 0) is None
    known = cache.known("cat")
    assert known is not None and known.is_over


def test_a_target_is_given_only_while_it_is_fresh() -> None:
    clock = HandClock()
    cache = listening(1 << 20, clock)
    keep(cache, a_link("cat"), from_primary=False)
    clock.advance(LIFE_SECONDS - 0.1)
    assert cache.live_target(b"cat", 0) is not None
    clock.advance(0.1)
    assert cache.live_target(b"cat", 0) is None
    keep(cache, a_link("cat"))
    clock.advance(86400)
    assert cache.live_target(b"cat", 0) is not None
    cache.changed("cat")
    assert cache.live_target(b"cat", 0) is None
    keep(cache, a_link("cat"))
    cache.lost(0)
    assert cache.live_target(b"cat", 0) is not None
    cache.give_up_listening()
    assert cache.live_target(b"cat", 0) is None
