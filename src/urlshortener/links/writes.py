"""Making, changing and deleting links, through failovers and in spite of callers who leave."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TypeVar

from urlshortener import telemetry
from urlshortener.errors import OutcomeUnknown, Refused, StoreUnavailable
from urlshortener.links.batches import Gatherer, Patience, Question
from urlshortener.links.cache import Cache
from urlshortener.links.link import Change, Draft, Link
from urlshortener.links.store import LinkStore

Asked = TypeVar("Asked")
Result = TypeVar("Result")

ANSWER_SECONDS = 7.8  # the contract's 8 s, less the way back
SETTLE_SECONDS = 30.0  # how much longer an unknown outcome is settled after nobody waits for it any more
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 0.5
LAST_ATTEMPT_SECONDS = 1.0  # who leaves while an attempt is under way hears of no outcome: the last begins earlier
STOP_SECONDS = 5.0

LARGEST_BATCH = 500
MOST_UNDER_WAY = 2  # each may hang in its commit with a connection
MOST_WAITING = 20_000
MOST_LISTS_UNDER_WAY = 2  # one is read and answered while the database keeps the other
MOST_LISTS_WAITING = 64


class Writes:
    """Writes to the database: each is tried again, with the same identity, until its outcome is known.

    A write runs in a task that no request can cancel, for a commit that is broken off may be done all the same.
    Its caller hears within ANSWER_SECONDS: the outcome; or StoreUnavailable, if nothing was done; or OutcomeUnknown,
    and the write goes on for a while to settle it. Not so a change: what its caller or another changes next would be
    undone, so it is not tried again once its caller was answered.
    """

    def __init__(self, store: LinkStore, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self._creates: Gatherer[Draft, Link] = Gatherer(
            self._keep, largest_batch=LARGEST_BATCH, most_under_way=MOST_UNDER_WAY, most_waiting=MOST_WAITING
        )
        self._callers: Patience[Draft, Link] = Patience(ANSWER_SECONDS, partial(_give_up, self._creates))
        self._lists: Gatherer[Sequence[Draft], list[Link | Refused]] = Gatherer(
            self._keep_lists, largest_batch=1, most_under_way=MOST_LISTS_UNDER_WAY, most_waiting=MOST_LISTS_WAITING
        )
        self._callers_with_lists: Patience[Sequence[Draft], list[Link | Refused]] = Patience(
            ANSWER_SECONDS, partial(_give_up, self._lists)
        )
        self._alone: set[asyncio.Task[None]] = set()

    async def create(self, draft: Draft) -> Link:
        with _unknown_counted():
            return await self._callers.answer_to(self._creates.ask(draft))

    async def create_many(self, drafts: Sequence[Draft]) -> list[Link | Refused]:
        """An answer for each, in their order; what is raised instead is said of all of them."""
        with _unknown_counted():
            return await self._callers_with_lists.answer_to(self._lists.ask(drafts))

    async def change(self, code: str, change: Change, now: datetime) -> Link | None:
        async def attempt() -> Link | None:
            with self._cache.reading() as reading:
                link = await self._store.change(code, change, now)
                if link is not None:
                    self._cache.keep_own(link, reading)
            return link

        return await self._by_itself(attempt, settles=False)

    async def delete(self, code: str, now: datetime) -> bool:
        async def attempt() -> bool:
            # False may be the answer to a second attempt whose first was done: then the row bears our time.
            is_deleted = await self._store.delete(code, now) or await self._was_deleted_at(code, now)
            if is_deleted:
                self._cache.keep_deletion(code)
            return is_deleted

        return await self._by_itself(attempt, settles=True)

    async def stop(self) -> None:
        """Give writes that are under way a moment to end."""
        if self._alone:
            await asyncio.wait(self._alone, timeout=STOP_SECONDS)
        for write in self._alone:
            write.cancel()
        await asyncio.gather(*self._alone, return_exceptions=True)
        await asyncio.gather(self._creates.finish(STOP_SECONDS), self._lists.finish(STOP_SECONDS))

    async def _keep(self, questions: Sequence[Question[Draft, Link]]) -> None:
        """Answer a batch of drafts. If it fails in a way nobody foresaw, by halves, so that one spoils no other."""
        drafts = [question.item for question in questions]
        try:
            outcomes = await _until_known(lambda: self._add(drafts))
        except (StoreUnavailable, OutcomeUnknown):
            raise
        except Exception as error:
            if len(questions) == 1:
                raise
            telemetry.LOG.error("links_failed_together", extra={"reason": type(error).__name__})
            middle = len(questions) // 2
            for half in (questions[:middle], questions[middle:]):
                await self._keep_alone(half)
            return
        for question, outcome in zip(questions, outcomes, strict=True):
            if isinstance(outcome, Link):
                question.answer(outcome)
            else:
                question.fail(outcome)

    async def _keep_alone(self, questions: Sequence[Question[Draft, Link]]) -> None:
        try:
            await self._keep(questions)
        except Exception as error:  # is the outcome for these, and must not reach the others
            for question in questions:
                question.fail(error)

    async def _keep_lists(self, lists: Sequence[Question[Sequence[Draft], list[Link | Refused]]]) -> None:
        for question in lists:
            question.answer(await _until_known(partial(self._add, question.item)))

    async def _add(self, drafts: Sequence[Draft]) -> list[Link | Refused]:
        with self._cache.reading() as reading:
            outcomes = await self._store.add_many(drafts)
            for outcome in outcomes:
                if isinstance(outcome, Link):
                    self._cache.keep(outcome, reading, from_primary=True)
        return outcomes

    async def _was_deleted_at(self, code: str, now: datetime) -> bool:
        link = (await self._store.find_many([code])).get(code)
        return link is not None and link.deleted_at == now

    async def _by_itself(self, attempt: Callable[[], Awaitable[Result]], *, settles: bool) -> Result:
        question: Question[None, Result] = Question(None)
        write = asyncio.create_task(_answer(question, attempt, settles))
        self._alone.add(write)
        write.add_done_callback(self._alone.discard)
        await asyncio.wait((question.answered,), timeout=ANSWER_SECONDS)
        return _outcome(question)


async def _answer(question: Question[None, Result], attempt: Callable[[], Awaitable[Result]], settles: bool) -> None:
    try:
        question.answer(await _until_known(attempt, settles=settles))
    except asyncio.CancelledError:
        question.fail(OutcomeUnknown("The service stopped before the database answered."))
        raise
    except Exception as error:  # belongs to whoever asked, whatever it is
        question.fail(error)


def _give_up(gatherer: Gatherer[Asked, Result], question: Question[Asked, Result]) -> None:
    if gatherer.withdraw(question):
        question.fail(StoreUnavailable("The database of links did not get to this in time; nothing was made."))
    else:
        question.fail(OutcomeUnknown("The database of links did not answer in time; it may have been done."))


@contextmanager
def _unknown_counted() -> Iterator[None]:
    try:
        yield
    except OutcomeUnknown:
        telemetry.CREATES_UNKNOWN.inc()
        raise


def _outcome(question: Question[Asked, Result]) -> Result:
    if not question.answered.done():
        raise OutcomeUnknown("The database of links did not answer in time; it may have been done.")
    return question.answered.result()


async def _until_known(attempt: Callable[[], Awaitable[Result]], *, settles: bool = True) -> Result:
    """Try the same write again, with growing pauses, while its caller may wait; if it settles, also while its outcome
    is unknown."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    pause = FIRST_PAUSE_SECONDS
    may_be_done = False
    while True:
        try:
            return await attempt()
        except (StoreUnavailable, OutcomeUnknown) as error:
            last = error
            may_be_done = may_be_done or isinstance(error, OutcomeUnknown)
        patience_seconds = ANSWER_SECONDS + (SETTLE_SECONDS if may_be_done and settles else -LAST_ATTEMPT_SECONDS)
        this_pause = pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
        if loop.time() + this_pause > began_at + patience_seconds:
            raise last
        await asyncio.sleep(this_pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
