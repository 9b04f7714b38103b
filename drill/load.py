"""The visitors: requests on a schedule that waits for nobody. `python -m drill.load PLAN`, a process of its own.

Each stream has its rate; when a request leaves is settled before the first one does. A request goes to one of the
proxies, by turns; where that one refuses the connection, to the other. A create whose outcome is unknown is asked
again, with the same idempotency key, until it is known. A redirect is asked for again only where every browser does:
when a connection that was kept from before is closed and not a byte came; both requests are in the history.

It ends when its standard input is closed, after the last requests were answered.
"""

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any, Self

import uvloop

from drill.history import KNOWN, REDIRECTS, Outcome, Recorder, Request, Stream
from drill.http_client import CLOSED_UNHEARD, Answer, Errand, Pool

LIMIT_SECONDS = 10.0
TICK_SECONDS = 0.002
FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 4.0
GIVE_UP_SECONDS = 120.0
LOCAL_ADDRESSES = [f"127.0.2.{number}" for number in range(1, 65)]
_AGENTS = [
    f"Mozilla/5.0 ({system}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
    for system in ("X11; Linux x86_64", "Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10.15", "Android 15")
    for version in range(140, 146)
]


@dataclass(frozen=True)
class Plan:
    """What is to be asked for, and where. Codes are numbered, so that nobody has to list them."""

    name: str
    seed: int
    doors: list[tuple[str, int, int]]  # address, port of the shorteners, port of the analytics
    history: str
    seconds: float  # for so long there are links that only one visitor follows
    rates: dict[str, float]  # of each stream, a second
    hot_codes: int = 200
    started_ns: int = field(default_factory=time.monotonic_ns)

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def count(self, stream: Stream) -> int:
        """How many codes a stream has."""
        match stream:
            case Stream.HOT:
                return self.hot_codes
            case Stream.BEAT:
                return 1
            case Stream.ONE_SHOT | Stream.COLD:
                return int(self.rates.get(stream, 0) * self.seconds) + 20  # the last twenty are never asked for
            case _:
                return 0

    def codes(self, *streams: Stream) -> list[str]:
        return [code_of(self.name, stream, number) for stream in streams for number in range(self.count(stream))]


def code_of(plan: str, stream: Stream, number: int) -> str:
    return f"{plan}-{stream}-{number}"


def target_of(code: str) -> str:
    return f"https://example.com/{code}"


def _zipf(count: int, chance: random.Random) -> Iterator[int]:
    weights = list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))
    while True:
        yield chance.choices(range(count), cum_weights=weights)[0]


class _Visitors:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._chance = random.Random(plan.seed)
        self._recorder = Recorder(Path(plan.history))
        local = LOCAL_ADDRESSES if len(plan.doors) > 1 else []
        self._shorteners = [Pool((address, port), local) for address, port, _ in plan.doors]
        self._analytics = [Pool((address, port), local) for address, _, port in plan.doors]
        self._numbers = itertools.count()
        self._under_way: set[int] = set()
        self._retries: list[tuple[float, str]] = []  # when, key
        self._tries: dict[str, tuple[int, float]] = {}  # of keys that are not answered: how many, when the first began
        self._tally: Counter[str] = Counter()
        self._latencies: list[int] = []
        self._is_over = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def come(self) -> None:
        schedule = self._schedule()
        following = next(schedule)
        telling = asyncio.create_task(self._tell())
        while not self._is_over.is_set():
            now = time.monotonic_ns()
            due: list[tuple[Request, Errand]] = []
            while following[0] <= now:
                due.append(self._request(*following))
                following = next(schedule)
            due += self._due_retries()
            self._send(due)
            await asyncio.sleep(TICK_SECONDS)
        await self._last_ones_answered()
        telling.cancel()
        self._recorder.close()
        for pool in (*self._shorteners, *self._analytics):
            pool.close()

    def end(self) -> None:
        self._is_over.set()

    def _schedule(self) -> Iterator[tuple[int, Stream, str]]:
        return iter(merge(*(self._arrivals(Stream(stream), rate) for stream, rate in self._plan.rates.items() if rate)))

    def _arrivals(self, stream: Stream, rate: float) -> Iterator[tuple[int, Stream, str]]:
        began = self._plan.started_ns + self._chance.randrange(int(1e9 / rate))
        is_finite = stream in (Stream.ONE_SHOT, Stream.COLD)
        numbers = range(int(rate * self._plan.seconds)) if is_finite else itertools.count()
        for number, what in zip(numbers, self._whats(stream), strict=False):
            yield began + int(number * 1e9 / rate), stream, what

    def _whats(self, stream: Stream) -> Iterator[str]:
        name = self._plan.name
        match stream:
            case Stream.HOT:
                return (code_of(name, stream, number) for number in _zipf(self._plan.hot_codes, self._chance))
            case Stream.BEAT:
                return itertools.repeat(code_of(name, stream, 0))
            case Stream.COUNT:  # every other look is at the beat
                beat = code_of(name, Stream.BEAT, 0)
                hot = itertools.cycle([code_of(name, Stream.HOT, number) for number in range(5)])
                return (beat if number % 2 == 0 else next(hot) for number in itertools.count())
            case _:
                return (code_of(name, stream, number) for number in itertools.count())

    def _request(self, scheduled_ns: int, stream: Stream, what: str) -> tuple[Request, Errand]:
        number = next(self._numbers)
        request = Request(number, stream, what, scheduled_ns, time.monotonic_ns())
        self._under_way.add(number)
        self._recorder.about_to(request)
        return request, Errand(
            self._bytes_of(request), lambda answer, reason: self._ended(request, answer, reason), due=LIMIT_SECONDS
        )

    def _bytes_of(self, request: Request) -> bytes:
        number, what = request.number, request.what
        door = self._plan.doors[number % len(self._plan.doors)]
        match request.stream:
            case Stream.CREATE:
                body = json.dumps({"url": target_of(what)}, separators=(",", ":"))
                return (
                    f"POST /api/v1/urls HTTP/1.1\r\nHost: {door[0]}:{door[1]}\r\nIdempotency-Key: {what}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                ).encode()
            case Stream.COUNT:
                return f"GET /api/v1/analytics/{what} HTTP/1.1\r\nHost: {door[0]}:{door[2]}\r\n\r\n".encode()
            case _:
                return (
                    f"GET /{what} HTTP/1.1\r\nHost: {door[0]}:{door[1]}\r\n"
                    f"User-Agent: {_AGENTS[number % len(_AGENTS)]}\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8"
                    f"\r\nAccept-Language: en-GB,en;q=0.7\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
                    f"Referer: https://news.example/{number % 10}\r\n\r\n"
                ).encode()

    def _send(self, due: list[tuple[Request, Errand]]) -> None:
        self._recorder.flush()
        now = self._loop.time()
        for request, errand in due:
            errand.due += now
            self._try_door(request, errand, request.number % len(self._plan.doors))

    def _try_door(self, request: Request, errand: Errand, door: int) -> None:
        """At this door, else at the other. What was refused everywhere was never sent."""

        def refused(errand: Errand) -> None:
            errand.tried.append(door)
            others = [other for other in range(len(self._plan.doors)) if other not in errand.tried]
            if others:
                self._try_door(request, errand, others[0])
            else:
                errand.done(None, "refused")

        pools = self._analytics if request.stream is Stream.COUNT else self._shorteners
        pools[door].send(errand, refused)

    def _ended(self, request: Request, answer: Answer | None, reason: str) -> None:
        request.ended_ns = time.monotonic_ns()
        if answer is None:
            request.outcome = Outcome.FAIL if reason == "refused" else Outcome.INFO
            request.detail = reason
        else:
            request.outcome, request.detail = _outcome(request, answer)
        self._recorder.ended(request)
        self._under_way.discard(request.number)
        if request.detail == CLOSED_UNHEARD and request.stream in REDIRECTS:
            self._send([self._request(request.scheduled_ns, request.stream, request.what)])
        elif request.stream in KNOWN:
            self._tally["ok" if request.is_ok else "failed"] += 1
            self._latencies.append(request.latency_ns)
        elif request.stream is Stream.CREATE and not request.is_ok and request.outcome is not Outcome.WRONG:
            self._ask_again(request.what)

    def _ask_again(self, key: str) -> None:
        """Later and later, as a well behaved client does; not for ever."""
        now = self._loop.time()
        tries, began = self._tries.get(key, (0, now))
        self._tries[key] = tries + 1, began
        if now < began + GIVE_UP_SECONDS:
            self._retries.append((now + min(FIRST_RETRY_SECONDS * 2**tries, LONGEST_RETRY_SECONDS), key))

    def _due_retries(self) -> list[tuple[Request, Errand]]:
        if not self._retries:
            return []
        now = self._loop.time()
        due = [key for at, key in self._retries if at <= now]
        self._retries = [retry for retry in self._retries if retry[0] > now]
        return [self._request(time.monotonic_ns(), Stream.CREATE, key) for key in due]

    async def _last_ones_answered(self) -> None:
        """Creates go on being retried, so that none is left unknown for lack of patience."""
        end = time.monotonic() + 2 * LIMIT_SECONDS
        while (self._under_way or self._retries) and time.monotonic() < end:
            self._send(self._due_retries())
            await asyncio.sleep(0.02)

    async def _tell(self) -> None:
        """Each second a line for whoever watches; and what has taken too long is given up."""
        while True:
            await asyncio.sleep(0.5)
            now = self._loop.time()
            for pool in (*self._shorteners, *self._analytics):
                pool.abort_overdue(now)
            if int(now * 2) % 2:
                continue
            late = sorted(self._latencies)
            told = {**self._tally, "p99_ms": round(late[int(0.99 * (len(late) - 1))] / 1e6, 1) if late else None}
            self._tally.clear()
            self._latencies.clear()
            print(json.dumps(told), flush=True)


def _outcome(request: Request, answer: Answer) -> tuple[Outcome, str]:
    status = str(answer.status)
    if request.stream in REDIRECTS:
        success, failures = 307, [404, 410]
    elif request.stream is Stream.CREATE:
        success, failures = 201, [409, 422]
    else:
        success, failures = 200, [404]
    if answer.status == success:
        return _success(request, answer)
    if answer.status in failures:
        return Outcome.WRONG, status
    again = "-again" if answer.status == 503 and answer.header(b"retry-after") else ""
    return Outcome.INFO, status + again


def _success(request: Request, answer: Answer) -> tuple[Outcome, str]:
    if request.stream in REDIRECTS:
        is_right = answer.header(b"location") == target_of(request.what).encode()
        return (Outcome.OK, "307") if is_right else (Outcome.WRONG, "another-address")
    return Outcome.OK, _member(answer, "code" if request.stream is Stream.CREATE else "access_count")


def _member(answer: Answer, name: str) -> str:
    body: Mapping[str, Any] = json.loads(answer.body)
    return str(body[name])


async def _main(path: Path) -> None:
    visitors = _Visitors(Plan.read(path))
    asyncio.get_running_loop().add_reader(sys.stdin, visitors.end)
    await visitors.come()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(Path(sys.argv[1])))
