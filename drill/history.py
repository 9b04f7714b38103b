"""What every request asked for and what came of it, in a file that only grows.

A request has a line before it is sent, and another when its outcome is known. So whatever ends the process that sends,
each request that may have reached the system is known to have been sent. Times are the machine's monotonic clock, in
nanoseconds: the same one for all its processes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self


class Stream(StrEnum):
    """What a request is for."""

    ONE_SHOT = "one-shot"  # a link that nobody else follows, ever
    HOT = "hot"  # one of some links that many follow
    BEAT = "beat"  # the one link whose count is watched: followed at a steady pace
    COLD = "cold"  # a link that no process holds in memory
    CREATE = "create"
    COUNT = "count"  # a look at a count


REDIRECTS = (Stream.ONE_SHOT, Stream.HOT, Stream.BEAT, Stream.COLD)
KNOWN = (Stream.ONE_SHOT, Stream.HOT, Stream.BEAT)


class Outcome(StrEnum):
    OK = "ok"  # the whole right answer
    INFO = "info"  # it was sent, and what was done is not known
    FAIL = "fail"  # it was certainly not sent
    WRONG = "wrong"  # an answer that no bad day excuses: another address, or that there is no such link


@dataclass(slots=True)
class Request:
    number: int
    stream: Stream
    what: str  # the code; for a create, its idempotency key
    scheduled_ns: int  # when it should have left
    sent_ns: int
    ended_ns: int = 0  # 0: nothing was heard of it
    outcome: Outcome = Outcome.INFO
    detail: str = "unheard"  # the status or what went wrong; of a look, the count; of a create, the code

    @property
    def latency_ns(self) -> int:
        """From when it should have left: a sender that is held up hides nothing."""
        return self.ended_ns - self.scheduled_ns

    @property
    def is_ok(self) -> bool:
        return self.outcome is Outcome.OK


class Recorder:
    """Writes a history. Lines are gathered; what is `about_to` happen is in the file when `flush` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[str] = []

    def about_to(self, request: Request) -> None:
        r = request
        self._lines.append(f"> {r.number} {r.stream} {r.what} {r.scheduled_ns} {r.sent_ns}\n")

    def ended(self, request: Request) -> None:
        r = request
        self._lines.append(f"< {r.number} {r.ended_ns} {r.outcome} {r.detail}\n")

    def flush(self) -> None:
        if self._lines:
            written = "".join(self._lines).encode()
            self._lines.clear()
            assert os.write(self._file, written) == len(written), "the history's disk is full"

    def close(self) -> None:
        self.flush()
        os.close(self._file)


class History:
    """All requests, in the order in which they were sent."""

    def __init__(self, requests: list[Request]) -> None:
        self.requests = requests

    @classmethod
    def read(cls, path: Path) -> Self:
        found: dict[int, Request] = {}
        for line in path.read_text().rpartition("\n")[0].splitlines():  # the last one may be half written
            mark, number, *rest = line.split(" ")
            if mark == ">":
                stream, what, scheduled, sent = rest
                found[int(number)] = Request(int(number), Stream(stream), what, int(scheduled), int(sent))
            else:
                ended, outcome, detail = rest
                request = found[int(number)]
                request.ended_ns, request.outcome, request.detail = int(ended), Outcome(outcome), detail
        return cls(list(found.values()))

    def of(self, *streams: Stream) -> Iterator[Request]:
        return (request for request in self.requests if request.stream in streams)

    @property
    def lag_ms(self) -> float:
        """How late requests left, at the 99th percentile. A sender that is late measures itself."""
        late = sorted(request.sent_ns - request.scheduled_ns for request in self.requests)
        return late[int(0.99 * (len(late) - 1))] / 1e6 if late else 0.0
