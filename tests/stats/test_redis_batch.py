"""What of a batch is left when the store says what it knows."""

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.access import RequestMemory
from urlshortener.stats.redis_batch import Batch

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BLOCK = 65_536


def batch_of(*numbers: int) -> Batch:
    return Batch([AccessEvent(EventId("epoch", number), "cat", NOON) for number in numbers], RequestMemory())


def numbers_in(batch: Batch) -> list[list[int]]:
    """As they are sent: for each block its number, and the first and last place of each run."""
    blocks = msgspec.msgpack.decode(batch.packed(1, []))[0]
    return [places for _, *places in blocks]


def test_numbers_without_a_gap_are_one_run() -> None:
    assert numbers_in(batch_of(*range(5, 2000))) == [[0, 5, 1999]]
    assert numbers_in(batch_of(9, 3, 4, 8, 3, 6)) == [[0, 3, 4, 6, 6, 8, 9]]


def test_a_run_ends_with_its_block() -> None:
    assert numbers_in(batch_of(*range(BLOCK - 2, BLOCK + 3))) == [[0, BLOCK - 2, BLOCK - 1], [1, 0, 2]]
    assert numbers_in(batch_of(3 * BLOCK - 1, 4 * BLOCK)) == [[2, BLOCK - 1, BLOCK - 1], [4, 0, 0]]


@given(
    numbers=st.sets(st.integers(0, 80) | st.integers(BLOCK - 20, BLOCK + 20), min_size=1),
    known=st.sets(st.integers(0, 80) | st.integers(BLOCK - 20, BLOCK + 20)),
)
def test_known_numbers_are_struck_out_of_the_runs_they_are_in(numbers: set[int], known: set[int]) -> None:
    batch = batch_of(*numbers)
    told: list[object] = []
    for block, *places in numbers_in(batch):
        for first, last in zip(places[::2], places[1::2], strict=True):
            if known & {block * BLOCK + place for place in range(first, last + 1)}:
                bitmap = bytearray(last // 8 - first // 8 + 1)
                for number in known:
                    byte = number % BLOCK // 8 - first // 8
                    if number // BLOCK == block and 0 <= byte < len(bitmap):
                        bitmap[byte] |= 0x80 >> number % 8
                told += b"epoch", block * BLOCK + first, block * BLOCK + last, bytes(bitmap)
    batch.strike_out([told, [], []])
    assert len(batch) == len(numbers - known)
    left = {number for block, *places in numbers_in(batch) for number in _all(block, places)}
    assert left == numbers - known


def _all(block: int, places: list[int]) -> list[int]:
    return [
        block * BLOCK + place
        for first, last in zip(places[::2], places[1::2], strict=True)
        for place in range(first, last + 1)
    ]


def test_of_a_full_block_all_is_known() -> None:
    batch = batch_of(*range(10))
    batch.strike_out([[b"epoch", 2, 9, b""], [], []])
    assert numbers_in(batch) == [[0, 0, 1]]
