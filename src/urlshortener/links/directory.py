"""Links as a service sees them: a store with a memory in front of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from urlshortener import telemetry
from urlshortener.errors import Refused, StoreUnavailable, Unavailable
from urlshortener.links.batches import Gatherer, Question
from urlshortener.links.cache import UNHEARD_SECONDS, Cache, Reading, Recently, Remembered
from urlshortener.links.link import Change, Destination, Draft, Link
from urlshortener.links.store import ChangeListener, Found, LinkStore, PageMark
from urlshortener.links.writes import Writes

COLD_SECONDS = 0.7  # a visitor of a code that is not held waits so long; with the way back through a busy edge, 1 s
STALE_SECONDS = 0.1  # a visitor of an expired one: then it is served as it is
FIND_SECONDS = 5.0
PAGE_SECONDS = 7.8
REPLICA_SECONDS = 0.3  # then the primary is asked
PRIMARY_SECONDS = 2.0
PROBE_SECONDS = 1.0  # while no database answers, one lookup in so long finds out whether one does again
DOUBT_SECONDS = 2.0  # must be more: between two probes nobody waits either
MISSED_SECONDS = 5.0
START_SECONDS = 2.0
WARM_PAGE = 1_000
FIRST_SWEEP_SECONDS = 60.0
SWEEP_SECONDS = 3600.0
LARGEST_SWEEP = 1_000  # keys that one transaction forgets
SWEEP_GRACE = timedelta(hours=1)  # a create that began in a key's last moment is still being tried again

LARGEST_BATCH = 500
MOST_UNDER_WAY = 4
MOST_WAITING = 20_000
MOST_MISSED = 10_000

_FRESH = telemetry.CACHE_LOOKUPS.labels("fresh")
_EXPIRED = telemetry.CACHE_LOOKUPS.labels("expired")
_ABSENT = telemetry.CACHE_LOOKUPS.labels("absent")
_REPLICA_TIME = telemetry.LOOKUP_SECONDS.labels("replica")
_PRIMARY_TIME = telemetry.LOOKUP_SECONDS.labels("primary")


@dataclass(frozen=True, slots=True)
class Looked:
    """What a lookup found, and in which reading of the primary: only one that began late enough proves absence."""

    link: Link | None
    primary_reading: int


Lookup = Question[str, Looked]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Directory:
    """Links as a service sees them. Redirects ask `known`, then `follow`; management asks the rest.

    A visitor's code takes the first of these ways that leads to an answer:

    1. It is fresh in the cache (see `Cache`): answered at once, nobody is asked.
    2. It is asked for: all codes of one turn of the loop in one query, each code once however many want it. A replica
       is asked first, where there is one, then the primary, if the replica does not have it or is behind; the primary
       alone for codes that were missed or changed a short while ago. "There is none" is said only by the primary, in
       a reading that began after this visitor came.
    3. It is held, though expired, and there was no answer within 100 ms: it is served as it was last known, for
       at most `stale_max`, and the lookup goes on. After a failure the database is in doubt for a while: then
       nobody waits, and one visitor's code in each second is asked for behind their back.
    4. It is not held and there was no answer within a second: StoreUnavailable.

    Who `forgets_keys` also sees to it, once an hour, that old idempotency keys go; who only reads need not write.
    """

    def __init__(
        self,
        store: LinkStore,
        *,
        cache_max_bytes: int,
        warm_links: int,
        stale_max: timedelta,
        forgets_keys: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._warm_links = warm_links
        self._forgets_keys = forgets_keys
        self._stale_max_seconds = stale_max.total_seconds()
        self._cache = Cache(cache_max_bytes, clock)
        self._writes = Writes(store, self._cache)
        self._missed = Recently(MISSED_SECONDS, MOST_MISSED, clock)
        self._replica = _gatherer(self._ask_replica)
        self._primary = _gatherer(self._ask_primary)
        self._primary_readings = 0
        self._lookups: dict[str, Lookup] = {}
        self._doubted_until = self._probe_at = clock()
        self._first_spell = asyncio.Event()
        self._given_up: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._times_reported = 0
        self.known: Callable[[str], Destination | None] = self._cache.known
        """known(code): where the link leads if the cache holds it fresh, else None. Waits for nothing."""
        self.live_target: Callable[[bytes, int], bytes | None] = self._cache.live_target
        """live_target(code, microseconds since 1970): the address alone, if `known` and live; as short as it can be."""

    @property
    def is_listening(self) -> bool:
        """Whether changes made elsewhere are heard of as they happen."""
        return self._cache.is_listening

    async def start(self) -> None:
        """Begin to listen, and load the newest links. A database that is away delays this 2 s and stops nothing."""
        telemetry.CACHE_BYTES.set_function(lambda: self._cache.bytes)
        telemetry.CACHE_LINKS.set_function(lambda: len(self._cache))
        telemetry.LISTENER_CONNECTED.set_function(lambda: self.is_listening)
        warmed = asyncio.create_task(self._warm())
        self._tasks += [asyncio.create_task(self._listen()), asyncio.create_task(self._report()), warmed]
        if self._forgets_keys:
            self._tasks.append(asyncio.create_task(self._sweep()))
        await asyncio.wait((warmed,), timeout=START_SECONDS)

    async def stop(self) -> None:
        """Let writes end, then cease to listen. The store stays open: it belongs to whoever opened it."""
        await self._writes.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._replica.finish(0)
        await self._primary.finish(0)
        self._on_lost()
        self._wait_no_more()
        self._report_known()

    async def follow(self, code: str) -> Destination | None:
        """Where the link leads, also if it is deleted or expired; None if there never was one.

        Raises StoreUnavailable within a second if it is not held and no database answers.
        """
        known = self.known(code)
        if known is not None:
            return known
        held = self._cache.held(code)
        if held is None:
            _ABSENT.inc()
            return await self._look_up(code, COLD_SECONDS)
        _EXPIRED.inc()
        if not self._may_be_served(held):
            return await self._look_up(code, COLD_SECONDS)
        if self._is_in_doubt():
            self._probe(code)
            return _stale(held)
        try:
            return await self._look_up(code, STALE_SECONDS)
        except Exception:  # whatever went wrong, a known link is followed
            return _stale(held)

    async def find(self, code: str) -> Link | None:
        """The link as the primary has it now; None if there is none that is not deleted."""
        question = self._primary.ask(code)
        await asyncio.wait((question.answered,), timeout=FIND_SECONDS)
        link = _answer_in_time(question).link
        return None if link is None or link.is_deleted else link

    async def create(self, draft: Draft) -> Link:
        """Keep a new link, or give the one that its idempotency key made before.

        Raises CodeTaken or KeyReused; StoreUnavailable if nothing was done; OutcomeUnknown, within 8 s, if the same
        draft may have been kept. Drafts of one turn of the loop share a transaction.
        """
        return await self._writes.create(draft)

    async def create_many(self, drafts: Sequence[Draft]) -> list[Link | Refused]:
        """Keep many new links in one transaction: for each, in their order, the link or why there is none.

        Raises as `create` does, of all of them: StoreUnavailable, OutcomeUnknown.
        """
        return await self._writes.create_many(drafts)

    async def change(self, code: str, change: Change, now: datetime) -> Link | None:
        """The changed link; None if there is none that is not deleted. Raises as `create` does."""
        return await self._writes.change(code, change, now)

    async def delete(self, code: str, now: datetime) -> bool:
        """Whether there was such a link to delete. Raises as `create` does."""
        return await self._writes.delete(code, now)

    async def page(self, limit: int, after: PageMark | None = None) -> list[Link]:
        """Links that are not deleted, newest first."""
        with _in_time():
            async with asyncio.timeout(PAGE_SECONDS):
                return await self._store.page(limit, after)

    # a visitor's lookup

    async def _look_up(self, code: str, within_seconds: float) -> Destination | None:
        came_at_reading = self._primary_readings
        give_up_at = asyncio.get_running_loop().time() + within_seconds
        while True:
            lookup = self._lookup(code)
            left = give_up_at - asyncio.get_running_loop().time()
            await asyncio.wait((lookup.answered,), timeout=max(0, left))
            if not lookup.answered.done():
                self._doubt()
            looked = _answer_in_time(lookup)
            _say_found_in("primary" if looked.primary_reading else "replica")
            if looked.link is not None or looked.primary_reading > came_at_reading:
                return None if looked.link is None else looked.link.destination

    def _lookup(self, code: str) -> Lookup:
        """The lookup of this code that is under way, or a new one."""
        lookup = self._lookups.get(code)
        if lookup is None:
            replica_may_help = (
                self._store.has_replica and code not in self._missed and not self._cache.changed_recently(code)
            )
            lookup = (self._replica if replica_may_help else self._primary).ask(code)
            self._lookups[code] = lookup
            lookup.answered.add_done_callback(lambda answered: self._looked_up(code, answered))
        return lookup

    def _looked_up(self, code: str, answered: asyncio.Future[Looked]) -> None:
        del self._lookups[code]
        error = answered.exception()
        if error is None:
            self._trust()
            return
        self._doubt()
        if not isinstance(error, Unavailable):
            telemetry.LOG.error("lookup_failed", extra={"reason": type(error).__name__})

    async def _ask_replica(self, lookups: Sequence[Lookup]) -> None:
        """Answer what a replica knows. The primary is asked for the rest: all of it, if no replica answers."""
        codes = {lookup.item for lookup in lookups}
        with self._cache.reading() as reading:
            try:
                with _REPLICA_TIME.time():
                    async with asyncio.timeout(REPLICA_SECONDS):
                        found = await self._store.find_many_on_replica(codes)
            except (TimeoutError, StoreUnavailable):
                found = {}
            for lookup in lookups:
                there = found.get(lookup.item)
                if there is not None and self._is_believed(there, reading):
                    lookup.answer(Looked(there.link, 0))
                else:
                    self._primary.take(lookup)

    def _is_believed(self, there: Found, reading: Reading) -> bool:
        """One that is behind tells what it knows only while no primary tells better."""
        if self.is_listening and not there.is_current:
            return False
        return self._cache.keep(there.link, reading, from_primary=False, is_current=there.is_current)

    async def _ask_primary(self, lookups: Sequence[Lookup]) -> None:
        """Answer for good, present or absent; what changed while it was read is read again."""
        self._primary_readings += 1
        number = self._primary_readings
        codes = {lookup.item for lookup in lookups}
        with self._cache.reading() as reading:
            with _PRIMARY_TIME.time(), _in_time():
                async with asyncio.timeout(PRIMARY_SECONDS):
                    found = await self._store.find_many(codes)
            for lookup in lookups:
                if self._believe(lookup.item, found.get(lookup.item), reading):
                    lookup.answer(Looked(found.get(lookup.item), number))
                else:
                    self._primary.take(lookup)

    def _believe(self, code: str, link: Link | None, reading: Reading) -> bool:
        if link is not None:
            return self._cache.keep(link, reading, from_primary=True)
        if code in reading.changed:
            return False
        self._cache.forget(code)
        self._missed.add(code)
        return True

    # when no database answers

    def _may_be_served(self, held: Remembered) -> bool:
        return self._clock() - held.last_true_at <= self._stale_max_seconds

    def _is_in_doubt(self) -> bool:
        return self._clock() < self._doubted_until

    def _doubt(self) -> None:
        self._doubted_until = self._clock() + DOUBT_SECONDS
        self._probe_at = self._clock() + PROBE_SECONDS

    def _trust(self) -> None:
        self._doubted_until = self._clock()

    def _probe(self, code: str) -> None:
        """Ask for a code that nobody waits for, if it is time to see whether a database answers again."""
        if self._clock() < self._probe_at:
            return
        self._doubt()  # until the answer tells otherwise
        with suppress(StoreUnavailable):  # so many lookups wait that one more would tell nothing
            self._lookup(code)

    # changes made elsewhere

    async def _listen(self) -> None:
        listener = ChangeListener(connected=self._on_connected, lost=self._on_lost, changed=self._cache.changed)
        while True:
            try:
                await self._store.listen(listener)
            except Exception as error:  # the store reconnects by itself: this is a bug, and must not end the listening
                telemetry.LOG.error("listening_failed", extra={"reason": type(error).__name__})
            self._on_lost()
            await asyncio.sleep(1)

    def _on_connected(self, missed: Collection[str] | None) -> None:
        self._cache.connected(missed)
        self._wait_no_more()
        self._trust()
        self._first_spell.set()

    def _on_lost(self, unheard_seconds: float = 0.0) -> None:
        if self._cache.is_listening:
            self._cache.lost(unheard_seconds)
            left = UNHEARD_SECONDS - unheard_seconds
            if left > 0:
                self._given_up = asyncio.get_running_loop().call_later(left, self._cache.give_up_listening)
            else:
                self._cache.give_up_listening()

    def _wait_no_more(self) -> None:
        """For a listener that was lost."""
        if self._given_up is not None:
            self._given_up.cancel()

    # the start

    async def _warm(self) -> None:
        """Load the newest links, as soon as a database gives them: best while listening, for then they last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS / 2):
                await self._first_spell.wait()
        while not await self._load_newest():  # noqa: ASYNC110 - no event tells when a database is back
            await asyncio.sleep(1)

    async def _load_newest(self) -> bool:
        loaded = 0
        after: PageMark | None = None
        while loaded < self._warm_links and not self._cache.is_full:
            with self._cache.reading() as reading:
                try:
                    links = await self.page(min(WARM_PAGE, self._warm_links - loaded), after)
                except Unavailable:
                    return False
                for link in links:
                    if not self._cache.is_full:
                        self._cache.keep(link, reading, from_primary=True)
            if not links:
                break
            loaded += len(links)
            after = PageMark(links[-1].created_at, links[-1].id)
        return True

    # old keys

    async def _sweep(self) -> None:
        """Have idempotency keys forgotten when their time is over. If it fails, the next time is soon enough."""
        await asyncio.sleep(FIRST_SWEEP_SECONDS)
        while True:
            try:
                while await self._store.forget_old_keys(self._now() - SWEEP_GRACE, LARGEST_SWEEP) == LARGEST_SWEEP:
                    pass
            except Exception as error:
                telemetry.LOG.warning("keys_not_forgotten", extra={"reason": type(error).__name__})
            await asyncio.sleep(SWEEP_SECONDS)

    # numbers

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._report_known()

    def _report_known(self) -> None:
        """Counting is too dear for `known`: it keeps a number, which goes to the metric once a second."""
        _FRESH.inc(self._cache.times_known - self._times_reported)
        self._times_reported = self._cache.times_known


def _gatherer(answer_all: Callable[[Sequence[Lookup]], Awaitable[None]]) -> Gatherer[str, Looked]:
    return Gatherer(answer_all, largest_batch=LARGEST_BATCH, most_under_way=MOST_UNDER_WAY, most_waiting=MOST_WAITING)


def _say_found_in(place: str) -> None:
    if (span := telemetry.current()) is not None:
        span.set_attribute(telemetry.FOUND_IN, place)


def _stale(held: Remembered) -> Destination:
    telemetry.STALE_SERVED.inc()
    _say_found_in("stale memory")
    return held.destination


def _answer_in_time(question: Lookup) -> Looked:
    if not question.answered.done():
        raise StoreUnavailable("The database of links did not answer in time.")
    return question.answered.result()


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise StoreUnavailable("The database of links did not answer in time.") from None
