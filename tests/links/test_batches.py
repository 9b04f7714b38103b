import asyncio
from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.links.scripted_store import until
from urlshortener.errors import OutcomeUnknown, StoreUnavailable
from urlshortener.links.batches import Gatherer, Question

Doubling = Question[int, int]


class Doubler:
    """Answers with the double; holds its batches back while `may_answer` is not set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.most_at_once = 0
        self._at_once = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, questions: Sequence[Doubling]) -> None:
        self.batches.append([question.item for question in questions])
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self.may_answer.wait()
        finally:
            self._at_once -= 1
        for question in questions:
            if question.item < 0:
                raise ValueError("negative")
            question.answer(2 * question.item)

    def gatherer(self, largest_batch: int = 10, most_under_way: int = 2, most_waiting: int = 100) -> Gatherer[int, int]:
        return Gatherer(self, largest_batch=largest_batch, most_under_way=most_under_way, most_waiting=most_waiting)


async def test_what_one_turn_of_the_loop_asks_for_is_one_batch() -> None:
    doubler = Doubler()
    gatherer = doubler.gatherer()

    async def ask(number: int) -> int:
        return await gatherer.ask(number).answered

    assert await asyncio.gather(*map(ask, range(5))) == [0, 2, 4, 6, 8]
    assert doubler.batches == [[0, 1, 2, 3, 4]]


async def test_no_more_batches_are_under_way_than_allowed_and_meanwhile_the_next_one_grows() -> None:
    doubler = Doubler()
    gatherer = doubler.gatherer(most_under_way=2)
    doubler.may_answer.clear()
    questions = []
    for number in range(6):
        questions.append(gatherer.ask(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await until(lambda: len(doubler.batches) == 2)
    doubler.may_answer.set()
    assert [await question.answered for question in questions] == [0, 2, 4, 6, 8, 10]
    assert doubler.batches == [[0], [1], [2, 3, 4, 5]]


async def test_one_who_leaves_does_not_cancel_the_batch() -> None:
    doubler = Doubler()
    gatherer = doubler.gatherer()
    doubler.may_answer.clear()
    leaves, stays = gatherer.ask(1), gatherer.ask(2)
    await until(lambda: bool(doubler.batches))
    leaves.answered.cancel()
    doubler.may_answer.set()
    assert await stays.answered == 4


async def test_an_error_of_the_batch_is_the_answer_to_those_who_have_none() -> None:
    gatherer = Doubler().gatherer()
    answered, failed = gatherer.ask(1), gatherer.ask(-1)
    assert await answered.answered == 2
    with pytest.raises(ValueError, match="negative"):
        await failed.answered


async def test_who_asks_when_too_many_wait_is_told_at_once() -> None:
    doubler = Doubler()
    gatherer = doubler.gatherer(most_waiting=3)
    waiting = [gatherer.ask(number) for number in range(3)]
    with pytest.raises(StoreUnavailable):
        gatherer.ask(4)
    assert [await question.answered for question in waiting] == [0, 2, 4]


async def test_a_question_can_be_withdrawn_until_its_batch_begins() -> None:
    doubler = Doubler()
    gatherer = doubler.gatherer(most_under_way=1)
    doubler.may_answer.clear()
    begun = gatherer.ask(1)
    await until(lambda: bool(doubler.batches))
    waits = gatherer.ask(2)
    assert not gatherer.withdraw(begun)
    assert gatherer.withdraw(waits)
    doubler.may_answer.set()
    assert await begun.answered == 2
    assert doubler.batches == [[1]]


async def test_a_finish_lets_batches_end_and_breaks_off_those_that_do_not() -> None:
    doubler = Doubler()
    gatherer = doubler.gatherer(most_under_way=1)
    ends = gatherer.ask(1)
    await until(lambda: bool(doubler.batches))
    await gatherer.finish(within_seconds=1)
    assert ends.answered.result() == 2

    doubler.may_answer.clear()
    hangs = gatherer.ask(2)
    await until(lambda: len(doubler.batches) == 2)
    waits = gatherer.ask(3)
    await gatherer.finish(within_seconds=0.01)
    with pytest.raises(OutcomeUnknown):
        hangs.answered.result()
    with pytest.raises(StoreUnavailable):
        waits.answered.result()


@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(st.lists(st.integers(0, 1000), max_size=8), max_size=8),
    largest_batch=st.integers(1, 5),
    most_under_way=st.integers(1, 3),
)
def test_everybody_gets_the_answer_to_their_own_question(
    turns: list[list[int]], largest_batch: int, most_under_way: int
) -> None:
    async def ask_all() -> None:
        doubler = Doubler()
        gatherer = doubler.gatherer(largest_batch, most_under_way, most_waiting=1000)
        questions = []
        for turn in turns:
            questions += [gatherer.ask(number) for number in turn]
            await asyncio.sleep(0)
        for question in questions:
            assert await question.answered == 2 * question.item
        assert sorted(number for batch in doubler.batches for number in batch) == sorted(chain(*turns))
        assert all(len(batch) <= largest_batch for batch in doubler.batches)
        assert doubler.most_at_once <= most_under_way

    asyncio.run(ask_all())
