"""The sentences about remembered links, against a store that does as it is told."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.links.scripted_store import NOON, HandClock, ScriptedStore, a_draft, a_link, until
from urlshortener import telemetry
from urlshortener.errors import CodeTaken, OutcomeUnknown, StoreUnavailable
from urlshortener.links import directory as directory_module
from urlshortener.links import writes
from urlshortener.links.cache import UNHEARD_SECONDS
from urlshortener.links.directory import Directory
from urlshortener.links.link import Change, Link

AWAY = StoreUnavailable("away")
READS = ("find_many", "find_many_on_replica", "page")
STALE_MAX = timedelta(hours=24)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
async def directory(store: ScriptedStore, clock: HandClock) -> AsyncIterator[Directory]:
    """Started and listening; nothing is loaded."""
    directory = Directory(store, cache_max_bytes=1 << 24, warm_links=0, stale_max=STALE_MAX, clock=clock)
    starting = asyncio.create_task(directory.start())
    (await store.heard()).connected(None)
    await starting
    yield directory
    store.recover()
    await directory.stop()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes lose their patience after 0.4 s, and settle for 0.6 s more."""
    monkeypatch.setattr(writes, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(writes, "SETTLE_SECONDS", 0.6)
    monkeypatch.setattr(writes, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(writes, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(writes, "LAST_ATTEMPT_SECONDS", 0.05)


async def target_of(directory: Directory, code: str) -> str | None:
    link = await directory.follow(code)
    return link.target if link else None


def move(store: ScriptedStore, code: str, target: str, version: int) -> None:
    """Change a link as another replica does."""
    store.primary[code] = a_link(code, target, version)


# fresh and expired


async def test_a_link_that_was_followed_is_known_and_nobody_is_asked_again(
    directory: Directory, store: ScriptedStore
) -> None:
    store.primary["cat"] = a_link("cat")
    assert directory.known("cat") is None
    await directory.follow("cat")
    assert directory.known("cat") == store.primary["cat"].destination
    await directory.follow("cat")
    assert len(store.calls) == 1


async def test_deleted_and_expired_links_are_returned_as_they_are(directory: Directory, store: ScriptedStore) -> None:
    store.primary["cat"] = Link(a_link("cat").id, "cat", "https://x.example/", NOON, NOON, deleted_at=NOON)
    link = await directory.follow("cat")
    assert link is not None
    assert not link.is_live(NOON)


async def test_a_listener_that_is_back_tells_which_links_to_look_up_again(
    directory: Directory, store: ScriptedStore
) -> None:
    for code in ("cat", "dog"):
        store.primary[code] = a_link(code, "https://old.example/")
        await directory.follow(code)
    heard = await store.heard()
    heard.lost(0)
    assert not directory.is_listening
    assert directory.known("cat") is not None
    move(store, "cat", "https://new.example/", 2)
    heard.connected({"cat"})
    assert directory.known("dog") is not None
    assert directory.known("cat") is None
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_listener_that_is_back_and_does_not_know_what_it_missed_has_all_looked_up_again(
    directory: Directory, store: ScriptedStore
) -> None:
    store.primary["cat"] = a_link("cat", "https://old.example/")
    await directory.follow("cat")
    move(store, "cat", "https://new.example/", 2)
    (await store.heard()).connected(None)
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_listener_that_has_not_been_heard_for_too_long_is_given_up_at_once(
    directory: Directory, store: ScriptedStore
) -> None:
    """As by a process that was frozen."""
    store.primary["cat"] = a_link("cat")
    await directory.follow("cat")
    (await store.heard()).lost(UNHEARD_SECONDS)
    assert directory.known("cat") is None


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_listener_is_given_up_after_a_while_unless_it_is_back(
    directory: Directory, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    monkeypatch.setattr(directory_module, "UNHEARD_SECONDS", 0.05)
    store.primary["cat"] = a_link("cat")
    await directory.follow("cat")
    (await store.heard()).lost(0)
    if is_back:
        (await store.heard()).connected(())
        await asyncio.sleep(0.1)
        assert directory.known("cat") is not None
    else:
        await until(lambda: directory.known("cat") is None)


async def test_a_notification_makes_the_next_visitor_look_again(directory: Directory, store: ScriptedStore) -> None:
    store.primary["cat"] = a_link("cat", "https://old.example/")
    await directory.follow("cat")
    move(store, "cat", "https://new.example/", 2)
    (await store.heard()).changed("cat")
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_notification_voids_the_lookup_under_way_and_its_waiters_look_again(
    directory: Directory, store: ScriptedStore
) -> None:
    store.primary["cat"] = a_link("cat", "https://old.example/")
    let_go = store.hold("find_many_on_replica")
    following = asyncio.create_task(target_of(directory, "cat"))
    await until(lambda: bool(store.calls))
    move(store, "cat", "https://new.example/", 2)
    (await store.heard()).changed("cat")
    let_go.set()
    assert await following == "https://new.example/"
    assert directory.known("cat") == store.primary["cat"].destination


async def test_a_notification_voids_an_absence_too(directory: Directory, store: ScriptedStore) -> None:
    let_go = store.hold("find_many")
    following = asyncio.create_task(target_of(directory, "cat"))
    await until(lambda: bool(store.called("find_many")))
    move(store, "cat", "https://new.example/", 2)
    (await store.heard()).changed("cat")
    let_go.set()
    assert await following == "https://new.example/"


async def test_after_a_notification_a_replica_that_is_behind_is_not_believed(
    directory: Directory, store: ScriptedStore
) -> None:
    old = a_link("cat", "https://old.example/")
    store.replica = {"cat": old}
    move(store, "cat", "https://new.example/", 2)
    (await store.heard()).changed("cat")  # of a link that is not even held
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_replica_that_is_behind_what_is_held_is_checked_with_the_primary(
    directory: Directory, store: ScriptedStore
) -> None:
    store.replica = {}
    move(store, "cat", "https://new.example/", 2)
    await directory.follow("cat")
    store.replica = {"cat": a_link("cat", "https://old.example/")}
    await forget_to_listen(store)
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_replica_that_is_not_behind_is_believed_as_the_primary_is(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    store.replica = {"cat": a_link("cat")}
    await directory.follow("cat")
    clock.advance(timedelta(days=7))
    assert directory.known("cat") is not None
    assert store.called("find_many") == []


async def test_a_replica_that_is_behind_is_not_believed_while_the_primary_is_heard(
    directory: Directory, store: ScriptedStore
) -> None:
    store.replica, store.replica_is_behind = {"cat": a_link("cat", "https://old.example/")}, True
    move(store, "cat", "https://new.example/", 2)
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_replica_that_is_behind_is_believed_for_a_minute_while_no_primary_is_heard(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    await forget_to_listen(store)
    store.replica, store.replica_is_behind = {"cat": a_link("cat")}, True
    await directory.follow("cat")
    assert store.called("find_many") == []
    clock.advance(59)
    assert directory.known("cat") is not None
    clock.advance(1)
    assert directory.known("cat") is None


# misses


async def test_all_codes_of_one_turn_are_one_query(directory: Directory, store: ScriptedStore) -> None:
    codes = [f"code{number}" for number in range(100)]
    store.primary = {code: a_link(code) for code in codes}
    links = await asyncio.gather(*map(directory.follow, codes))
    assert links == [store.primary[code].destination for code in codes]
    assert store.called("find_many_on_replica") == [frozenset(codes)]
    assert store.called("find_many") == []


async def test_a_thousand_visitors_of_one_cold_code_are_one_lookup(
    directory: Directory, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "REPLICA_SECONDS", 60)  # else a slow machine asks the primary too
    store.primary["cat"] = a_link("cat")
    let_go = store.hold("find_many_on_replica")
    visitors = []
    for _ in range(10):  # in ten turns of the loop
        visitors += [asyncio.create_task(directory.follow("cat")) for _ in range(100)]
        await asyncio.sleep(0.001)
    let_go.set()
    assert set(await asyncio.gather(*visitors)) == {store.primary["cat"].destination}
    assert len(store.calls) == 1


async def test_one_visitor_who_leaves_does_not_disturb_the_others(directory: Directory, store: ScriptedStore) -> None:
    store.primary["cat"] = a_link("cat")
    let_go = store.hold("find_many_on_replica")
    leaves, stays = asyncio.create_task(directory.follow("cat")), asyncio.create_task(directory.follow("cat"))
    await until(lambda: bool(store.calls))
    leaves.cancel()
    await asyncio.wait((leaves,))
    let_go.set()
    assert await stays == store.primary["cat"].destination


async def test_a_miss_on_the_replica_is_looked_up_on_the_primary(directory: Directory, store: ScriptedStore) -> None:
    store.replica = {}
    store.primary["cat"] = a_link("cat")
    assert await directory.follow("cat") == store.primary["cat"].destination
    assert await directory.follow("unknown") is None


async def test_without_a_replica_a_lookup_is_one_query(directory: Directory, store: ScriptedStore) -> None:
    store.has_replica = False
    store.primary["cat"] = a_link("cat")
    assert await directory.follow("cat") == store.primary["cat"].destination
    assert await directory.follow("unknown") is None
    assert store.called("find_many") == [{"cat"}, {"unknown"}]
    assert store.called("find_many_on_replica") == []


async def test_only_a_reading_that_began_after_the_visitor_came_says_there_is_none(
    directory: Directory, store: ScriptedStore
) -> None:
    let_go = store.hold("find_many")
    early = asyncio.create_task(directory.follow("cat"))
    await until(lambda: bool(store.called("find_many")))
    store.primary["cat"] = a_link("cat")  # created elsewhere, and answered, before the second visitor comes
    late = asyncio.create_task(directory.follow("cat"))
    await asyncio.sleep(0)
    let_go.set()
    assert await early is None
    assert await late == store.primary["cat"].destination


async def test_a_remembered_miss_spares_the_replica_and_never_answers_by_itself(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    assert await directory.follow("cat") is None
    store.primary["cat"] = a_link("cat")  # created on another replica: that is not told of
    assert await directory.follow("cat") == store.primary["cat"].destination
    assert len(store.called("find_many_on_replica")) == 1
    assert len(store.called("find_many")) == 2

    assert await directory.follow("dog") is None
    clock.advance(5)
    assert await directory.follow("dog") is None
    assert len(store.called("find_many_on_replica")) == 3


async def test_a_primary_that_cannot_be_reached_is_never_a_miss(directory: Directory, store: ScriptedStore) -> None:
    store.replica = {}
    store.fail(AWAY, "find_many")
    with pytest.raises(StoreUnavailable):
        await directory.follow("cat")


async def test_a_replica_that_fails_or_hangs_is_passed_over(directory: Directory, store: ScriptedStore) -> None:
    store.primary = {"cat": a_link("cat"), "dog": a_link("dog")}
    store.fail(AWAY, "find_many_on_replica")
    assert await directory.follow("cat") is not None
    store.recover()
    store.hold("find_many_on_replica")
    assert await directory.follow("dog") is not None


async def test_without_an_answer_a_code_that_is_not_held_is_unavailable_within_a_second(
    directory: Directory, store: ScriptedStore
) -> None:
    store.hold(*READS)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await directory.follow("cat")
    assert time.monotonic() - began < 1.0


async def test_too_many_waiting_lookups_are_refused_at_once(
    directory: Directory, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory._replica, "_most_waiting", 10)
    outcomes = await asyncio.gather(*(directory.follow(f"c{n}") for n in range(11)), return_exceptions=True)
    assert outcomes[:10] == [None] * 10
    assert isinstance(outcomes[10], StoreUnavailable)


# no database


async def hold_link(directory: Directory, store: ScriptedStore, *codes: str) -> None:
    """Let the directory hold links, and then lose its listener for so long that they are expired."""
    for code in codes:
        store.primary[code] = a_link(code)
        await directory.follow(code)
    await forget_to_listen(store)


async def forget_to_listen(store: ScriptedStore) -> None:
    """What was known is expired, and nobody tells of changes."""
    (await store.heard()).connected(None)
    (await store.heard()).lost(0)


async def test_a_known_link_is_followed_at_once_while_no_database_answers(
    directory: Directory, store: ScriptedStore
) -> None:
    await hold_link(directory, store, "cat")
    store.fail(AWAY, *READS)
    served = telemetry.STALE_SERVED._value.get()
    began = time.monotonic()
    for _ in range(100):
        assert await target_of(directory, "cat") == "https://example.org/"
    assert time.monotonic() - began < 0.1
    assert telemetry.STALE_SERVED._value.get() - served == 100


async def test_a_hanging_database_holds_the_first_visitor_for_a_tenth_of_a_second_and_no_other(
    directory: Directory, store: ScriptedStore
) -> None:
    await hold_link(directory, store, "cat", "dog")
    store.hold(*READS)
    began = time.monotonic()
    assert await target_of(directory, "cat") is not None
    assert 0.09 < time.monotonic() - began < 0.15
    began = time.monotonic()
    for code in ("cat", "dog") * 50:
        assert await target_of(directory, code) is not None
    assert time.monotonic() - began < 0.1


async def test_a_lookup_that_is_late_goes_on_and_refreshes(directory: Directory, store: ScriptedStore) -> None:
    await hold_link(directory, store, "cat")
    move(store, "cat", "https://new.example/", 2)
    let_go = store.hold(*READS)
    assert await target_of(directory, "cat") == "https://example.org/"
    let_go.set()
    await until(lambda: directory.known("cat") == store.primary["cat"].destination)


async def test_while_in_doubt_one_visitor_a_second_finds_out_behind_their_back(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    await hold_link(directory, store, "cat")
    store.fail(AWAY, *READS)
    await directory.follow("cat")
    asked = len(store.called("find_many"))
    for _ in range(100):
        clock.advance(0.1)
        await directory.follow("cat")
        await asyncio.sleep(0.001)
    assert 8 <= len(store.called("find_many")) - asked <= 10


async def test_nobody_waits_for_a_probe_that_hangs(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    await hold_link(directory, store, "cat", "dog")
    store.hold(*READS)
    await directory.follow("cat")
    began = time.monotonic()
    for _ in range(4):
        clock.advance(0.75 * directory_module.DOUBT_SECONDS)
        assert await target_of(directory, "dog") is not None
    assert time.monotonic() - began < 0.09


async def test_when_the_database_is_back_links_are_true_again(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    await hold_link(directory, store, "cat", "dog")
    store.fail(AWAY, *READS)
    await directory.follow("cat")
    store.recover()
    move(store, "cat", "https://new.example/", 2)
    move(store, "dog", "https://new.example/", 2)
    clock.advance(directory_module.PROBE_SECONDS)
    assert await target_of(directory, "cat") == "https://example.org/"
    await until(lambda: directory.known("cat") is not None)
    assert await target_of(directory, "cat") == "https://new.example/"
    assert await target_of(directory, "dog") == "https://new.example/"


async def test_an_old_failure_makes_nobody_believe_what_is_stale(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    await hold_link(directory, store, "cat")
    store.fail(AWAY, *READS)
    await directory.follow("cat")
    store.recover()
    move(store, "cat", "https://new.example/", 2)
    clock.advance(directory_module.DOUBT_SECONDS)
    assert await target_of(directory, "cat") == "https://new.example/"


async def test_a_known_link_is_followed_for_stale_max_after_the_loss_of_the_listener_and_no_longer(
    directory: Directory, store: ScriptedStore, clock: HandClock
) -> None:
    store.primary["cat"] = a_link("cat")
    await directory.follow("cat")
    clock.advance(timedelta(days=30))  # all the while it is known to be true
    await forget_to_listen(store)
    store.fail(AWAY, *READS)
    clock.advance(STALE_MAX)
    assert await directory.follow("cat") is not None
    clock.advance(1)
    with pytest.raises(StoreUnavailable):
        await directory.follow("cat")


async def test_a_changed_link_is_served_as_it_was_only_if_nobody_can_tell_the_change(
    directory: Directory, store: ScriptedStore
) -> None:
    store.primary["cat"] = a_link("cat")
    await directory.follow("cat")
    (await store.heard()).changed("cat")
    store.fail(AWAY, *READS)
    assert await target_of(directory, "cat") == "https://example.org/"


# the start


async def test_at_start_the_newest_links_are_loaded_and_stay_fresh(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "WARM_PAGE", 4)
    links = [
        Link(a_link("x").id, f"code{age}", "https://example.org/", NOON - timedelta(hours=age), NOON)
        for age in range(20)
    ]
    store = ScriptedStore(*links)
    directory = Directory(store, cache_max_bytes=1 << 24, warm_links=10, stale_max=STALE_MAX, clock=clock)
    starting = asyncio.create_task(directory.start())
    (await store.heard()).connected(None)
    await starting
    clock.advance(3600)
    assert [link.code for link in links if directory.known(link.code)] == [f"code{age}" for age in range(10)]
    assert store.called("find_many_on_replica") == []
    await directory.stop()


async def test_loading_ends_with_the_last_link(clock: HandClock) -> None:
    store = ScriptedStore(a_link("cat"))
    directory = Directory(store, cache_max_bytes=1 << 24, warm_links=10, stale_max=STALE_MAX, clock=clock)
    starting = asyncio.create_task(directory.start())
    (await store.heard()).connected(None)
    async with asyncio.timeout(0.5):
        await starting
    assert directory.known("cat") is not None
    await directory.stop()


async def test_loading_stops_when_the_cache_is_full(clock: HandClock) -> None:
    links = [Link(a_link("x").id, f"{n}", "https://example.org/", NOON - timedelta(hours=n), NOON) for n in range(100)]
    store = ScriptedStore(*links)
    directory = Directory(store, cache_max_bytes=8_000, warm_links=100, stale_max=STALE_MAX, clock=clock)
    starting = asyncio.create_task(directory.start())
    (await store.heard()).connected(None)
    await starting
    loaded = [n for n in range(100) if directory.known(f"{n}")]
    assert loaded == list(range(len(loaded)))
    assert 10 < len(loaded) < 40
    await directory.stop()


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_database_that_is_away_does_not_stop_the_start_nor_delay_it_over_two_seconds(
    store: ScriptedStore, how: str
) -> None:
    store.primary["cat"] = a_link("cat")
    if how == "fails":
        store.fail(AWAY, *READS)
    else:
        store.hold(*READS)
    directory = Directory(store, cache_max_bytes=1 << 24, warm_links=100, stale_max=STALE_MAX)
    began = time.monotonic()
    await directory.start()
    assert time.monotonic() - began < 2.2
    store.recover()
    await until(lambda: directory.known("cat") is not None)
    await directory.stop()


async def test_a_listener_that_fails_is_started_again(directory: Directory, store: ScriptedStore) -> None:
    store.break_listening()
    again = await store.heard()
    assert not directory.is_listening
    again.connected(None)
    assert directory.is_listening


# creating


async def test_a_created_link_enters_the_cache_of_its_creator(directory: Directory, store: ScriptedStore) -> None:
    link = await directory.create(a_draft("cat"))
    assert directory.known("cat") == link.destination
    assert store.called("find_many_on_replica") == []


async def test_drafts_of_one_turn_share_a_transaction_and_each_has_its_own_outcome(
    directory: Directory, store: ScriptedStore
) -> None:
    store.primary["taken"] = a_link("taken")
    drafts = [a_draft(code) for code in ("cat", "taken", "dog")]
    cat, taken, dog = await asyncio.gather(*map(directory.create, drafts), return_exceptions=True)
    assert isinstance(cat, Link)
    assert isinstance(taken, CodeTaken)
    assert isinstance(dog, Link)
    assert len(store.called("add_many")) == 1


async def test_few_batches_are_under_way_and_none_is_too_large(directory: Directory, store: ScriptedStore) -> None:
    let_go = store.hold("add_many")
    creating = [asyncio.create_task(directory.create(a_draft(f"c{number}"))) for number in range(3000)]
    await until(lambda: store.busy == writes.MOST_UNDER_WAY)
    let_go.set()
    assert len(await asyncio.gather(*creating)) == 3000
    assert store.most_busy == writes.MOST_UNDER_WAY
    assert max(map(len, store.called("add_many"))) == writes.LARGEST_BATCH


async def test_a_request_that_is_cancelled_does_not_cancel_its_write(
    directory: Directory, store: ScriptedStore
) -> None:
    let_go = store.hold("add_many")
    creating = asyncio.create_task(directory.create(a_draft("cat")))
    await until(lambda: bool(store.calls))
    creating.cancel()
    await asyncio.wait((creating,))
    let_go.set()
    await until(lambda: directory.known("cat") is not None)


async def test_unknown_outcomes_and_outages_are_tried_again_with_the_same_draft(
    directory: Directory, store: ScriptedStore
) -> None:
    store.failing_after_doing["add_many"] = [OutcomeUnknown("cut"), StoreUnavailable("away"), OutcomeUnknown("cut")]
    draft = a_draft("cat")
    assert (await directory.create(draft)).id == draft.id
    assert len(store.called("add_many")) == 4
    assert len(store.primary) == 1


@pytest.mark.usefixtures("hasty")
async def test_an_outcome_that_stays_unknown_is_said_so_in_time_and_settled_afterwards(
    directory: Directory, store: ScriptedStore
) -> None:
    unknown = telemetry.CREATES_UNKNOWN._value.get()
    store.fail(OutcomeUnknown("cut"), "add_many")
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await directory.create(a_draft("cat"))
    assert time.monotonic() - began < 0.5
    assert telemetry.CREATES_UNKNOWN._value.get() == unknown + 1
    store.recover()
    await until(lambda: directory.known("cat") is not None)


@pytest.mark.usefixtures("hasty")
async def test_an_unknown_outcome_is_not_tried_for_ever(directory: Directory, store: ScriptedStore) -> None:
    store.fail(OutcomeUnknown("cut"), "add_many")
    with pytest.raises(OutcomeUnknown):
        await directory.create(a_draft("cat"))
    await until(lambda: not directory._writes._creates._under_way)


@pytest.mark.usefixtures("hasty")
async def test_when_nothing_was_done_a_create_says_so(directory: Directory, store: ScriptedStore) -> None:
    store.fail(AWAY, "add_many")
    with pytest.raises(StoreUnavailable):
        await directory.create(a_draft("cat"))
    assert store.primary == {}


@pytest.mark.usefixtures("hasty")
async def test_a_draft_that_was_never_sent_is_withdrawn(directory: Directory, store: ScriptedStore) -> None:
    let_go = store.hold("add_many")
    hanging = []
    for number in range(writes.MOST_UNDER_WAY):
        hanging.append(asyncio.create_task(directory.create(a_draft(f"c{number}"))))
        await until(lambda: store.busy == len(hanging))
    with pytest.raises(StoreUnavailable):
        await directory.create(a_draft("late"))
    let_go.set()
    await asyncio.gather(*hanging, return_exceptions=True)
    await until(lambda: not directory._writes._creates._under_way)
    assert "late" not in store.primary


async def test_too_many_waiting_drafts_are_refused_at_once(
    directory: Directory, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory._writes._creates, "_most_waiting", 10)
    drafts = [a_draft(f"c{number}") for number in range(11)]
    outcomes = await asyncio.gather(*map(directory.create, drafts), return_exceptions=True)
    assert isinstance(outcomes[10], StoreUnavailable)
    assert len(store.primary) == 10


async def test_a_draft_that_fails_unexpectedly_never_fails_its_neighbours(
    directory: Directory, store: ScriptedStore
) -> None:
    store.poisoned = {"c13"}
    drafts = [a_draft(f"c{number}") for number in range(50)]
    outcomes = await asyncio.gather(*map(directory.create, drafts), return_exceptions=True)
    assert isinstance(outcomes.pop(13), RuntimeError)
    assert all(isinstance(outcome, Link) for outcome in outcomes)


async def test_a_created_link_that_was_changed_before_its_answer_came_is_not_kept_as_it_was(
    directory: Directory, store: ScriptedStore
) -> None:
    let_go = store.hold("add_many")
    creating = asyncio.create_task(directory.create(a_draft("cat")))
    await until(lambda: bool(store.calls))
    move(store, "cat", "https://new.example/", 2)
    (await store.heard()).changed("cat")
    let_go.set()
    await creating
    assert await target_of(directory, "cat") == "https://new.example/"


# changing and deleting


async def test_an_own_change_is_followed_at_once(directory: Directory, store: ScriptedStore) -> None:
    await directory.create(a_draft("cat"))
    changed = await directory.change("cat", Change(target="https://new.example/"), NOON)
    assert changed is not None
    assert directory.known("cat") == changed.destination
    assert changed.target == "https://new.example/"


async def test_an_own_deletion_is_followed_at_once_and_without_a_database_too(
    directory: Directory, store: ScriptedStore
) -> None:
    await directory.create(a_draft("cat"))
    assert await directory.delete("cat", NOON)
    store.fail(AWAY, *READS)
    link = await directory.follow("cat")
    assert link is not None
    assert link.is_over
    store.recover()
    assert await directory.find("cat") is None
    assert not await directory.delete("cat", NOON + timedelta(seconds=1))
    assert not await directory.delete("never", NOON)


async def test_a_deletion_whose_answer_was_lost_is_a_deletion(directory: Directory, store: ScriptedStore) -> None:
    store.primary["cat"] = a_link("cat")
    store.failing_after_doing["delete"] = [OutcomeUnknown("cut")]
    assert await directory.delete("cat", NOON)


async def test_a_change_whose_answer_was_lost_is_made_again(directory: Directory, store: ScriptedStore) -> None:
    store.primary["cat"] = a_link("cat")
    store.failing_after_doing["change"] = [OutcomeUnknown("cut"), StoreUnavailable("away")]
    changed = await directory.change("cat", Change(enabled=False), NOON)
    assert changed is not None
    assert not changed.enabled


@pytest.mark.usefixtures("hasty")
async def test_a_change_that_hangs_is_answered_in_time_and_goes_on(directory: Directory, store: ScriptedStore) -> None:
    store.primary["cat"] = a_link("cat")
    let_go = store.hold("change")
    with pytest.raises(OutcomeUnknown):
        await directory.change("cat", Change(target="https://new.example/"), NOON)
    let_go.set()
    await until(lambda: directory.known("cat") is not None)


@pytest.mark.usefixtures("hasty")
async def test_a_change_is_not_tried_again_once_its_caller_was_answered(
    directory: Directory, store: ScriptedStore
) -> None:
    store.primary["cat"] = a_link("cat")
    store.fail(OutcomeUnknown("cut"), "change")
    with pytest.raises(OutcomeUnknown):
        await directory.change("cat", Change(target="https://first.example/"), NOON)
    store.recover()
    await directory.change("cat", Change(target="https://second.example/"), NOON)
    await until(lambda: not directory._writes._alone)
    assert store.primary["cat"].target == "https://second.example/"


# the rest of management


async def test_management_finds_what_the_primary_has(directory: Directory, store: ScriptedStore) -> None:
    store.replica = {"cat": a_link("cat", "https://old.example/")}
    move(store, "cat", "https://new.example/", 2)
    assert await directory.follow("cat") == store.replica["cat"].destination
    assert await directory.find("cat") == store.primary["cat"]
    assert directory.known("cat") == store.primary["cat"].destination
    assert await directory.find("never") is None
    assert await directory.page(10) == [store.primary["cat"]]


async def test_what_is_measured_is_true(directory: Directory, store: ScriptedStore) -> None:
    def counted(held: str) -> float:
        return telemetry.REGISTRY.get_sample_value("link_cache_lookups_total", {"held": held}) or 0

    before = {held: counted(held) for held in ("fresh", "expired", "absent")}
    store.primary["cat"] = a_link("cat")
    await directory.follow("cat")
    directory.known("cat")
    directory.known("never")
    await directory.follow("cat")
    (await store.heard()).changed("cat")
    await directory.follow("cat")
    await until(lambda: counted("fresh") > before["fresh"])
    assert {held: counted(held) - before[held] for held in before} == {"fresh": 2, "expired": 1, "absent": 1}
    assert telemetry.REGISTRY.get_sample_value("link_cache_links") == 1
    assert telemetry.REGISTRY.get_sample_value("link_listener_connected") == 1
    assert (telemetry.REGISTRY.get_sample_value("link_cache_bytes") or 0) > 150


# old keys


async def test_all_old_keys_are_forgotten_a_thousand_at_a_time_and_then_now_and_then(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "FIRST_SWEEP_SECONDS", 0)
    monkeypatch.setattr(directory_module, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(directory_module, "START_SECONDS", 0)
    store.old_keys = 2_500
    directory = Directory(store, cache_max_bytes=1 << 20, warm_links=0, stale_max=STALE_MAX, now=lambda: NOON)
    await directory.start()
    await until(lambda: len(store.swept_before) >= 4)
    await directory.stop()
    assert store.old_keys == 0
    assert set(store.swept_before) == {NOON - timedelta(hours=1)}


async def test_who_only_reads_forgets_no_keys(store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "FIRST_SWEEP_SECONDS", 0)
    directory = Directory(store, cache_max_bytes=1 << 20, warm_links=0, stale_max=STALE_MAX, forgets_keys=False)
    await directory.start()
    await asyncio.sleep(0.02)
    await directory.stop()
    assert store.called("forget_old_keys") == []


async def test_a_sweep_that_fails_is_logged_and_the_next_one_comes(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(directory_module, "FIRST_SWEEP_SECONDS", 0)
    monkeypatch.setattr(directory_module, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(directory_module, "START_SECONDS", 0)
    store.fail(AWAY, "forget_old_keys")
    directory = Directory(store, cache_max_bytes=1 << 20, warm_links=0, stale_max=STALE_MAX)
    await directory.start()
    await until(lambda: len(store.called("forget_old_keys")) >= 2)
    store.recover()
    await until(lambda: bool(store.swept_before))
    await directory.stop()
    assert "keys_not_forgotten" in caplog.text


async def test_a_list_of_drafts_is_one_transaction_with_an_answer_for_each(
    directory: Directory, store: ScriptedStore
) -> None:
    drafts = [a_draft("cat"), a_draft("dog"), a_draft("cat")]
    first, second, third = await directory.create_many(drafts)
    assert isinstance(first, Link) and isinstance(second, Link) and isinstance(third, CodeTaken)
    assert len(store.called("add_many")) == 1
    assert directory.known("cat") is not None and directory.known("dog") is not None


@pytest.mark.usefixtures("hasty")
async def test_a_list_of_drafts_is_settled_though_nobody_waits_any_more(
    directory: Directory, store: ScriptedStore
) -> None:
    store.fail(OutcomeUnknown("cut"), "add_many")
    with pytest.raises(OutcomeUnknown):
        await directory.create_many([a_draft("cat"), a_draft("dog")])
    store.recover()
    await until(lambda: directory.known("cat") is not None and directory.known("dog") is not None)


@pytest.mark.usefixtures("hasty")
async def test_a_list_of_drafts_that_was_never_sent_is_withdrawn(directory: Directory, store: ScriptedStore) -> None:
    let_go = store.hold("add_many")
    drafts = [a_draft(f"c{number}") for number in range(writes.MOST_LISTS_UNDER_WAY)]
    hanging = [asyncio.create_task(directory.create_many([draft])) for draft in drafts]
    await until(lambda: store.busy == len(hanging))
    with pytest.raises(StoreUnavailable):
        await directory.create_many([a_draft("late")])
    let_go.set()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert "late" not in store.primary
