"""A spool without a disk: the same promises to whoever publishes, and it remembers what it was told."""

import asyncio
import json
from collections import deque

from urlshortener.events.spool import Batch, Spool

EPOCH = "0123456789abcdef"


class MemorySpool(Spool):
    is_strict = False

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.told_done: list[range] = []
        self._kept: set[int] = set()
        self._events = 0
        self._waiting: deque[int] = deque()
        self._came = asyncio.Event()

    def add(self, count: int) -> None:
        self._waiting.extend(range(self._events, self._events + count))
        self._events += count
        self._came.set()

    async def take(self, most: int = 256) -> Batch:
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        first = self._waiting.popleft()
        count = 1
        while count < most and self._waiting and self._waiting[0] == first + count:
            self._waiting.popleft()
            count += 1
        body = b",".join(event_body(seq) for seq in range(first, first + count))
        return Batch(EPOCH, first, count, body, last_of_epoch=False, highest_seq=self._events - 1)

    def done(self, batch: Batch) -> None:
        numbers = range(batch.first_seq, batch.first_seq + batch.count)
        self.told_done.append(numbers)
        self._kept.update(numbers)

    def rewind(self) -> None:
        self._waiting = deque(seq for seq in range(self._events) if seq not in self._kept)
        if self._waiting:
            self._came.set()

    @property
    def unsent(self) -> int:
        return self._events - len(self._kept)


def event_body(seq: int) -> bytes:
    event = {"event_id": f"event-{seq}", "code": "cat", "accessed_at": "2026-11-23T10:00:00.123456Z"}
    rest = {"user_agent": None, "ip_address": None, "referer": None, "visitor": None, "epoch": EPOCH, "seq": seq}
    return json.dumps(event | rest, separators=(",", ":")).encode()
