"""Asking together: what one turn of the event loop asks for becomes one question to the database."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from opentelemetry.trace import SpanContext

from urlshortener.errors import OutcomeUnknown, StoreUnavailable
from urlshortener.telemetry import asking, together

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Question(Generic[Item, Answer]):
    """One item of a batch, and the future of its own that its answer goes to."""

    __slots__ = ("answered", "asked_in", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked_in: SpanContext | None = asking()
        self.answered.add_done_callback(_heard)  # whoever asked may have left: that is no error

    def answer(self, answer: Answer) -> None:
        if not self.answered.done():
            self.answered.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


def _heard(answered: asyncio.Future[Any]) -> None:
    if not answered.cancelled():
        answered.exception()


class Patience(Generic[Item, Answer]):
    """Who waits for which question, for so long at most: then `give_up` is told, once. One timer serves them all."""

    def __init__(self, seconds: float, give_up: Callable[[Question[Item, Answer]], None]) -> None:
        self._seconds = seconds
        self._give_up = give_up
        self._waiting: deque[tuple[float, Question[Item, Answer]]] = deque()  # until when; in the order of coming
        self._timer: asyncio.TimerHandle | None = None

    async def answer_to(self, question: Question[Item, Answer]) -> Answer:
        """The answer, or what the question failed with. A cancelled caller gives up by itself."""
        loop = asyncio.get_running_loop()
        self._forget_answered()
        self._waiting.append((loop.time() + self._seconds, question))
        if self._timer is None:
            self._timer = loop.call_at(self._waiting[0][0], self._end)
        return await question.answered

    def _forget_answered(self) -> None:
        while self._waiting and self._waiting[0][1].answered.done():
            self._waiting.popleft()

    def _end(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._forget_answered()
        while self._waiting and self._waiting[0][0] <= loop.time():
            self._give_up(self._waiting.popleft()[1])
            self._forget_answered()
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._end)


class Gatherer(Generic[Item, Answer]):
    """Collects what one turn of the event loop asks for and hands it to one call of `answer_all`.

    Each batch begins after all of its items were asked for, runs in a task of its own that nobody who waits can
    cancel, and answers each question for itself, early or late, or hands it over to another gatherer with `take`.
    What `answer_all` raises is the answer to those of its questions that have none. At most `most_under_way`
    batches run at a time; meanwhile the next one grows. Whoever asks while `most_waiting` wait already is told so.
    """

    def __init__(
        self,
        answer_all: Callable[[Sequence[Question[Item, Answer]]], Awaitable[None]],
        *,
        largest_batch: int,
        most_under_way: int,
        most_waiting: int,
    ) -> None:
        self._answer_all = answer_all
        self._largest_batch = largest_batch
        self._most_under_way = most_under_way
        self._most_waiting = most_waiting
        self._waiting: dict[Question[Item, Answer], None] = {}  # in order, and quick to withdraw from
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_due = False

    def ask(self, item: Item) -> Question[Item, Answer]:
        """Put an item into the next batch. Raises StoreUnavailable at once if too many wait."""
        if len(self._waiting) >= self._most_waiting:
            raise StoreUnavailable("Too many requests wait for the database of links.")
        question: Question[Item, Answer] = Question(item)
        self.take(question)
        return question

    def take(self, question: Question[Item, Answer]) -> None:
        """Put a question into the next batch that was asked before, perhaps elsewhere: never refused."""
        self._waiting[question] = None
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send)

    def withdraw(self, question: Question[Item, Answer]) -> bool:
        """Take a question back. False if its batch has begun: then it cannot be undone."""
        return question in self._waiting and self._waiting.pop(question) is None

    async def finish(self, within_seconds: float) -> None:
        """Let batches end; what then still runs is broken off, and its questions are answered OutcomeUnknown."""
        give_up_at = asyncio.get_running_loop().time() + within_seconds
        while self._under_way and (left := give_up_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._under_way, timeout=left)
        for question in self._waiting:
            question.fail(StoreUnavailable("The service is stopping."))
        self._waiting.clear()
        for batch in self._under_way:
            batch.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _send(self) -> None:
        self._is_due = False
        while self._waiting and len(self._under_way) < self._most_under_way:
            questions = list(islice(self._waiting, self._largest_batch))
            for question in questions:
                del self._waiting[question]
            batch = asyncio.create_task(self._run(questions))
            self._under_way.add(batch)
            batch.add_done_callback(self._ended)

    async def _run(self, questions: Sequence[Question[Item, Answer]]) -> None:
        try:
            with together((question.asked_in for question in questions), len(questions)):
                await self._answer_all(questions)
        except asyncio.CancelledError:
            for question in questions:
                question.fail(OutcomeUnknown("The service stopped before the database answered."))
            raise
        except Exception as error:  # belongs to those who asked, whatever it is
            for question in questions:
                question.fail(error)

    def _ended(self, batch: asyncio.Task[None]) -> None:
        self._under_way.discard(batch)
        self._send()
