"""Asking together: what one turn of the event loop asks for becomes one question to the database."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from opentelemetry.trace import SpanContext

from urlshortener.errors import OutcomeUnknown, StoreUnavailable
from urlshortener.telemetry import asking, together

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class Question(Generic[Item, Answer]):
    """One item of a batch, and the future of its own that its answer goes to."""

    item: Item
    answered: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    asked_in: SpanContext | None = field(default_factory=asking)

    def __post_init__(self) -> None:
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
