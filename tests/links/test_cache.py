"""How long a remembered link is known to be true."""

import pytest

from tests.links.scripted_store import HandClock, a_link
from urlshortener.links.cache import LIFE_SECONDS, MOST_DOUBTFUL, Cache, Recently
from urlshortener.links.link import Link


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def cache(clock: HandClock) -> Cache:
    cache = Cache(1 << 30, clock)
    cache.connected(None)
    return cache


def keep(cache: Cache, link: Link, *, from_primary: bool = True, is_current: bool = False) -> bool:
    with cache.reading() as reading:
        return cache.keep(link, reading, from_primary=from_primary, is_current=is_current)


def held_target(cache: Cache, code: str) -> str:
    held = cache.held(code)
    assert held is not None
    return held.destination.target


def test_a_reading_of_the_primary_stays_fresh_while_changes_are_told_of(cache: Cache, clock: HandClock) -> None:
    keep(cache, a_link("cat"))
    clock.advance(7 * 86400)
    assert cache.known("cat") is not None


def test_a_reading_of_a_replica_lives_a_minute(cache: Cache, clock: HandClock) -> None:
    keep(cache, a_link("cat"), from_primary=False)
    clock.advance(LIFE_SECONDS - 0.1)
    assert cache.known("cat") is not None
    clock.advance(0.1)
    assert cache.known("cat") is None
    assert cache.held("cat") is not None


def test_a_reading_of_a_replica_that_is_not_behind_stays_fresh_as_the_primarys_does(
    cache: Cache, clock: HandClock
) -> None:
    keep(cache, a_link("cat"), from_primary=False, is_current=True)
    clock.advance(7 * 86400)
    assert cache.known("cat") is not None
    cache.changed("cat")
    assert cache.known("cat") is None


def test_of_a_link_that_was_changed_a_moment_ago_no_replica_is_believed_for_long(
    cache: Cache, clock: HandClock
) -> None:
    """The notification may have come after the replica was asked whether it is behind."""
    cache.changed("cat")
    keep(cache, a_link("cat"), from_primary=False, is_current=True)
    assert cache.known("cat") is not None
    clock.advance(LIFE_SECONDS)
    assert cache.known("cat") is None


def test_a_reading_made_while_nobody_listens_lives_a_minute(cache: Cache, clock: HandClock) -> None:
    cache.lost(0)
    keep(cache, a_link("cat"))
    clock.advance(LIFE_SECONDS - 0.1)
    assert cache.known("cat") is not None
    clock.advance(0.1)
    assert cache.known("cat") is None


def test_what_was_known_when_the_listener_was_lost_is_fresh_until_it_is_given_up(cache: Cache) -> None:
    keep(cache, a_link("cat"))
    cache.lost(0)
    assert cache.known("cat") is not None
    cache.give_up_listening()
    assert cache.known("cat") is None
    assert held_target(cache, "cat") == "https://example.org/"


def test_a_listener_that_knows_what_it_missed_expires_that_alone(cache: Cache, clock: HandClock) -> None:
    for code in ("cat", "dog", "fox"):
        keep(cache, a_link(code))
    with cache.reading() as lookup:
        cache.lost(0)
        clock.advance(7)
        cache.connected({"cat", "nobody-knows-this-one"})
        assert not cache.keep(a_link("cat"), lookup, from_primary=True)
    assert cache.known("cat") is None
    clock.advance(86400)
    assert cache.known("dog") is not None
    assert cache.held("dog").last_true_at == float("inf")  # type: ignore[union-attr]


def test_what_was_changed_shortly_before_a_loss_is_expired_with_what_was_missed(cache: Cache, clock: HandClock) -> None:
    """Its primary may have died before any other had the change, and the next one does not know of it."""
    for code in ("cat", "dog"):
        keep(cache, a_link(code))
        cache.changed(code)
        keep(cache, a_link(code, version=2))
        clock.advance(LIFE_SECONDS / 2)
    cache.lost(0)
    clock.advance(LIFE_SECONDS - 1)
    cache.connected(())
    assert cache.known("cat") is not None
    assert cache.known("dog") is None


def test_when_too_much_is_doubtful_all_is(cache: Cache) -> None:
    keep(cache, a_link("cat"))
    cache.lost(0)
    cache.connected({str(number) for number in range(MOST_DOUBTFUL + 1)})
    assert cache.known("cat") is None


@pytest.mark.parametrize("way", ["missed too much", "given up", "a second time"])
def test_a_listener_that_is_back_too_late_or_without_what_it_missed_expires_all(cache: Cache, way: str) -> None:
    keep(cache, a_link("cat"))
    cache.lost(0)
    if way == "given up":
        cache.give_up_listening()
    cache.connected(None if way == "missed too much" else ())
    if way == "a second time":
        assert cache.known("cat") is not None
        cache.lost(0)
        cache.connected(None)
    assert cache.known("cat") is None
    assert cache.held("cat") is not None


def test_to_give_up_a_listener_that_is_back_changes_nothing(cache: Cache) -> None:
    keep(cache, a_link("cat"))
    cache.lost(0)
    cache.connected(())
    cache.give_up_listening()
    assert cache.known("cat") is not None


def test_a_reading_that_began_before_the_loss_lasts_as_long_as_what_was_known_then(cache: Cache) -> None:
    with cache.reading() as reading:
        cache.lost(0)
        assert cache.keep(a_link("cat"), reading, from_primary=True)
    assert cache.known("cat") is not None
    cache.give_up_listening()
    assert cache.known("cat") is None


def test_an_expired_entry_was_true_until_the_listener_was_lost(cache: Cache, clock: HandClock) -> None:
    keep(cache, a_link("cat"))
    clock.advance(500)
    lost_at = clock() - 1.5
    cache.lost(1.5)
    clock.advance(500)
    held = cache.held("cat")
    assert held is not None
    assert held.last_true_at == lost_at


def test_a_notification_expires_what_is_held_and_keeps_it(cache: Cache) -> None:
    keep(cache, a_link("cat"))
    keep(cache, a_link("dog"))
    cache.changed("cat")
    assert cache.known("cat") is None
    assert cache.held("cat") is not None
    assert cache.known("dog") is not None


def test_a_notification_voids_readings_under_way_for_its_code_alone(cache: Cache) -> None:
    with cache.reading() as reading:
        cache.changed("cat")
        assert not cache.keep(a_link("cat"), reading, from_primary=True)
        assert cache.keep(a_link("dog"), reading, from_primary=True)
    assert cache.known("cat") is None
    assert cache.known("dog") is not None


def test_a_replicas_reading_never_overwrites_a_newer_version(cache: Cache) -> None:
    keep(cache, a_link("cat", "https://new.example/", version=2))
    cache.connected(None)
    assert not keep(cache, a_link("cat", "https://old.example/", version=1), from_primary=False)
    assert held_target(cache, "cat") == "https://new.example/"


def test_a_later_reading_of_the_primary_always_wins(cache: Cache, clock: HandClock) -> None:
    keep(cache, a_link("cat", "https://lost-in-a-failover.example/", version=7))
    clock.advance(1)
    assert keep(cache, a_link("cat", "https://true.example/", version=6))
    assert held_target(cache, "cat") == "https://true.example/"


def test_of_two_readings_of_the_primary_that_cross_the_newer_version_wins(cache: Cache, clock: HandClock) -> None:
    with cache.reading() as early:
        clock.advance(1)
        keep(cache, a_link("cat", "https://new.example/", version=2))
        assert not cache.keep(a_link("cat", "https://old.example/", version=1), early, from_primary=True)
    assert held_target(cache, "cat") == "https://new.example/"


def test_a_replicas_reading_does_not_shorten_the_life_of_the_primarys(cache: Cache, clock: HandClock) -> None:
    keep(cache, a_link("cat"))
    keep(cache, a_link("cat"), from_primary=False)
    clock.advance(LIFE_SECONDS + 1)
    assert cache.known("cat") is not None


def test_an_own_change_is_known_at_once_and_voids_what_is_being_read(cache: Cache) -> None:
    keep(cache, a_link("cat", "https://old.example/"))
    with cache.reading() as lookup, cache.reading() as write:
        cache.keep_own(a_link("cat", "https://new.example/", version=2), write)
        assert not cache.keep(a_link("cat", "https://old.example/"), lookup, from_primary=True)
    known = cache.known("cat")
    assert known is not None
    assert known.target == "https://new.example/"


def test_an_own_change_whose_notification_came_first_is_kept_as_expired(cache: Cache) -> None:
    keep(cache, a_link("cat", "https://old.example/"))
    with cache.reading() as write:
        cache.changed("cat")
        cache.keep_own(a_link("cat", "https://new.example/", version=2), write)
    assert cache.known("cat") is None
    assert held_target(cache, "cat") == "https://new.example/"


def test_of_two_own_changes_the_newer_is_kept_whichever_is_heard_of_first(cache: Cache) -> None:
    with cache.reading() as first, cache.reading() as second:
        cache.keep_own(a_link("cat", "https://third.example/", version=3), second)
        cache.keep_own(a_link("cat", "https://second.example/", version=2), first)
    assert held_target(cache, "cat") == "https://third.example/"


def test_a_link_deleted_here_is_never_served_as_it_was(cache: Cache) -> None:
    keep(cache, a_link("cat"))
    cache.keep_deletion("cat")
    assert cache.known("cat") is None
    held = cache.held("cat")
    assert held is not None
    assert held.destination.is_over


def test_what_happened_recently_is_forgotten_after_a_while_and_bounded(clock: HandClock) -> None:
    recently = Recently(5.0, 100, clock)
    recently.add("cat")
    assert "cat" in recently
    clock.advance(5)
    assert "cat" not in recently
    for number in range(1000):
        recently.add(str(number))
    assert len(recently) == 100
    assert "999" in recently
