"""A batch as counting/batch.lua wants it: numbers as runs, requests by their set, accesses added up by code."""

from binascii import b2a_base64
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

import msgspec

from urlshortener.events.event import AccessEvent, EventId
from urlshortener.stats.access import QUARTER_SECONDS, RequestMemory, hashed_visitor, microseconds, request_of
from urlshortener.stats.bots import is_bot
from urlshortener.stats.progress import Advance

# as in counting/layout.lua
_BLOCK = 65_536
_VISITOR = 8

_QUARTER = QUARTER_SECONDS * 1_000_000
# Requests are found by the time of their event, because a try and its retry are seconds apart on the clock, however
# late one of them comes. A slot has some parts: what falls in the first or the last is looked for next door as well.
_PART = 30 * 1_000_000  # a proxy tries again at once: more lies between them by no clock
_PARTS = 4
_SHARDS = 64  # a set that is forgotten at once stays small


class Batch:
    """Events, of which those that turn out to be known are struck out until none is left.

    Each of these steps is for good: what the store has counted it does not forget, unless it is another one.
    """

    def __init__(self, events: Iterable[AccessEvent], requests: RequestMemory) -> None:
        self._requests = requests
        self._numbered: dict[str, dict[int, AccessEvent]] = {}
        self._foreign: dict[str, AccessEvent] = {}
        self._known_requests: set[str] = set()
        self.retries = 0
        for event in events:
            identity = event.id
            if isinstance(identity, EventId):
                self._numbered.setdefault(identity.epoch, {}).setdefault(identity.seq, event)
            else:
                self._foreign.setdefault(identity, event)

    def __len__(self) -> int:
        return sum(map(len, self._numbered.values())) + len(self._foreign)

    def strike_out(self, known: Sequence[Any]) -> None:
        """What the store says of the batch, if it knew some of it."""
        numbers, foreign, requests = known
        for epoch, first, last, bits in zip(*[iter(numbers)] * 4, strict=True):
            of_epoch = self._numbered[epoch.decode()]
            for number in _set_in(first, last, bits):
                of_epoch.pop(number, None)
        for identity in foreign:
            self._foreign.pop(identity.decode(), None)
        self._known_requests.update(request.decode() for request in requests)

    def packed(self, retention_seconds: int, advanced: Sequence[Advance]) -> bytes:
        """The argument of the counting function; counting/batch.lua says what stands where."""
        seen = set(self._known_requests)
        requests: defaultdict[int, list[str]] = defaultdict(list)
        tallies: defaultdict[int, dict[str, list[Any]]] = defaultdict(dict)
        self.retries, remembers_requests = 0, self._requests.seconds > 0
        for event in self._events():
            at_us = microseconds(event.at)
            if remembers_requests and (hashed := request_of(event)):
                request = hashed.decode("latin-1")  # text, because the server's msgpack reads no bytes
                if request in seen:
                    self.retries += 1
                    continue
                seen.add(request)
                requests[at_us // _PART * _SHARDS + hashed[-1] % _SHARDS].append(request)
            _add(tallies[at_us // _QUARTER], event, at_us)
        return msgspec.msgpack.encode(
            [
                [block for epoch, numbers in self._numbered.items() for block in _blocks(epoch, sorted(numbers))],
                list(self._foreign),
                [_group(place, group) for place, group in requests.items()],
                [[quarter, *chain.from_iterable(tallies[quarter].values())] for quarter in sorted(tallies)],
                advanced,
                [retention_seconds, self._requests.seconds, self._requests.most],
            ]
        )

    def _events(self) -> Iterator[AccessEvent]:
        return chain(chain.from_iterable(of.values() for of in self._numbered.values()), self._foreign.values())


def _add(tallies: dict[str, list[Any]], event: AccessEvent, at_us: int) -> None:
    visitor = "" if event.visitor is None else _token(event.visitor)
    tally = tallies.get(event.code)
    if tally is None:
        tallies[event.code] = [event.code, 1, int(is_bot(event.user_agent)), at_us, visitor]
    else:
        tally[1] += 1
        tally[2] += is_bot(event.user_agent)
        tally[3] = max(tally[3], at_us)
        tally[4] += visitor


def _token(visitor: str) -> str:
    return f",{b2a_base64(hashed_visitor(visitor))[: _VISITOR - 1].decode()}"


def _group(place: int, requests: list[str]) -> tuple[str, str, list[str]]:
    """The set that these requests belong to, and the one where a retry could be instead."""
    part, shard = divmod(place, _SHARDS)
    slot, into = divmod(part, _PARTS)
    near = slot - 1 if into == 0 else slot + 1 if into == _PARTS - 1 else slot
    return f"{slot}:{shard}", f"{near}:{shard}", requests


def _blocks(epoch: str, numbers: Sequence[int]) -> Iterator[list[str | int]]:
    for block, runs in groupby(_runs(numbers), key=lambda run: run[0] // _BLOCK):
        yield [epoch, block, *(number % _BLOCK for number in chain.from_iterable(runs))]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of those that follow each other without a gap, in one block."""
    if not numbers:
        return
    first = before = numbers[0]
    for number in numbers[1:]:
        if number != before + 1 or number % _BLOCK == 0:
            yield first, before
            first = number
        before = number
    yield first, before


def _set_in(first: int, last: int, bits: bytes) -> Iterator[int]:
    """Which numbers from first to last are known; without bits all of them are."""
    if not bits:
        yield from range(first, last + 1)
        return
    began = first - first % 8
    for number in range(first, last + 1):
        byte, bit = divmod(number - began, 8)
        if byte < len(bits) and bits[byte] & 0x80 >> bit:
            yield number
