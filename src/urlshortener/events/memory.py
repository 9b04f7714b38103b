"""Events for which no disk has room: a few thousand of them wait here, and are given out before all others."""

from collections import deque

from urlshortener.events.epoch import Batch
from urlshortener.events.segment import MOST_BYTES, MOST_EVENTS

MOST_BYTES_IN_MEMORY = 4 * 1024 * 1024


class Memory:
    """Batches of one epoch, in order. What is taken stays until it is done, or taken back."""

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._taken: dict[int, Batch] = {}  # by their first numbers
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether anything waits to be taken."""
        return bool(self._waiting)

    @property
    def events(self) -> int:
        """How many are not done yet."""
        return sum(batch.count for batch in (*self._waiting, *self._taken.values()))

    def keep(self, batch: Batch) -> bool:
        """False where there is no room."""
        if self._bytes + len(batch.body) > MOST_BYTES_IN_MEMORY:
            return False
        self._waiting.append(batch)
        self._bytes += len(batch.body)
        return True

    @property
    def first(self) -> Batch:
        """The first of those that wait."""
        return self._waiting[0]

    def forget_first(self) -> None:
        self._bytes -= len(self._waiting.popleft().body)

    def take(self, most: int, highest_seq: int) -> Batch:
        """Many turns' events at once: else few of them would leave in a second."""
        first = self._waiting.popleft()
        bodies, count, size = [first.body], first.count, len(first.body)
        while self._waiting:
            following = self._waiting[0]
            size += 1 + len(following.body)  # with the comma
            is_next = following.first_seq == first.first_seq + count
            if not is_next or count + following.count > min(most, MOST_EVENTS) or size > MOST_BYTES:
                break
            bodies.append(self._waiting.popleft().body)
            count += following.count
        self._bytes += len(bodies) - 1
        taken = Batch(first.epoch, first.first_seq, count, b",".join(bodies), False, highest_seq)
        self._taken[taken.first_seq] = taken
        return taken

    def done(self, batch: Batch) -> bool:
        """Whether it was taken here."""
        taken = self._taken.pop(batch.first_seq, None)
        if taken is None:
            return False
        self._bytes -= len(taken.body)
        return True

    def take_back(self) -> None:
        """All that was taken and is not done: to be taken again, before the others."""
        self._waiting.extendleft(reversed(self._taken.values()))
        self._taken.clear()
