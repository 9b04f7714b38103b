"""The visitors of the drill, sent to a little server that answers as it is told."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from drill.figures import _Window, freshness
from drill.history import REDIRECTS, History, Outcome, Request, Stream
from drill.http_client import CLOSED_UNHEARD
from drill.load import Plan

SECONDS = 1.0
RATES = {Stream.ONE_SHOT: 40.0, Stream.HOT: 40.0, Stream.CREATE: 20.0, Stream.COUNT: 20.0, Stream.BEAT: 20.0}
Answers = Callable[[str, str], bytes | None]  # None: the connection is cut


def well(method: str, path: str) -> bytes | None:
    if method == "POST":
        return b'HTTP/1.1 201 Created\r\ncontent-length: 15\r\n\r\n{"code":"Xy12"}'
    if path.startswith("/api/"):
        return b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"access_count":0}'
    return f"HTTP/1.1 307 T\r\nlocation: https://example.com{path}\r\ncontent-length: 0\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def server(answers: Answers) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if "Content-Length: " in head:
                    await reader.readexactly(int(head.partition("Content-Length: ")[2].partition("\r")[0]))
                method, path, _ = head.split(" ", 2)
                answer = answers(method, path)
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def history_of(folder: Path, answers: Answers) -> History:
    """What visitors of two doors, of which one refuses, wrote down."""
    async with server(answers) as port:
        doors = [("127.0.0.1", port, port), ("127.0.0.1", 1, 1)]
        rates = {str(stream): rate for stream, rate in RATES.items()}
        plan = Plan("d", 1, doors, str(folder / "history"), SECONDS, rates)
        plan.write(folder / "plan")
        command = [sys.executable, "-m", "drill.load", str(folder / "plan")]
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        async with asyncio.timeout(60):
            while not _is_over(folder / "history"):
                await asyncio.sleep(0.1)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    return History.read(folder / "history")


def _is_over(path: Path) -> bool:
    """Whether all came who were to come once, and enough of the others."""
    if not path.exists():
        return False
    history = History.read(path)
    return all(len(list(history.of(stream))) >= rate * SECONDS for stream, rate in RATES.items())


def outcomes(history: History, *streams: Stream) -> set[tuple[Outcome, str]]:
    return {(request.outcome, request.detail) for request in history.of(*streams)}


async def test_every_visitor_of_the_schedule_comes_and_is_sent_to_the_door_that_opens(tmp_path: Path) -> None:
    history = await history_of(tmp_path, well)
    assert len(list(history.of(Stream.ONE_SHOT))) == RATES[Stream.ONE_SHOT] * SECONDS
    for stream, rate in RATES.items():
        assert len(list(history.of(stream))) >= rate * SECONDS
    assert outcomes(history, *REDIRECTS) == {(Outcome.OK, "307")}
    assert outcomes(history, Stream.CREATE) == {(Outcome.OK, "Xy12")}
    assert outcomes(history, Stream.COUNT) == {(Outcome.OK, "0")}
    shots = [request.what for request in history.of(Stream.ONE_SHOT)]
    assert len(set(shots)) == len(shots)
    assert all(request.scheduled_ns <= request.sent_ns <= request.ended_ns for request in history.requests)


async def test_what_went_wrong_is_told_apart(tmp_path: Path) -> None:
    turns = iter(range(10_000))

    def badly(method: str, path: str) -> bytes | None:
        if method == "POST" or path.startswith("/api/"):
            return well(method, path)
        kinds = (
            b"HTTP/1.1 307 T\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 404 N\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 503 S\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
            None,
        )
        return kinds[next(turns) % len(kinds)]

    assert outcomes(await history_of(tmp_path, badly), *REDIRECTS) == {
        (Outcome.WRONG, "another-address"),
        (Outcome.WRONG, "404"),
        (Outcome.INFO, "503-again"),
        (Outcome.INFO, CLOSED_UNHEARD),
        (Outcome.INFO, "broken"),
    }


async def test_a_redirect_is_asked_for_again_when_a_kept_connection_is_closed_without_a_word(tmp_path: Path) -> None:
    turns = iter(range(10_000))

    def now_and_then_closed(method: str, path: str) -> bytes | None:
        return None if method == "GET" and next(turns) % 10 == 5 else well(method, path)

    history = await history_of(tmp_path, now_and_then_closed)
    for code in {request.what for request in history.of(Stream.ONE_SHOT)}:
        *before, last = [request for request in history.of(Stream.ONE_SHOT) if request.what == code]
        assert {request.detail for request in before} <= {CLOSED_UNHEARD}
        assert last.detail != CLOSED_UNHEARD
        assert all(request.scheduled_ns == last.scheduled_ns for request in before)
    closed = [request for request in history.of(*REDIRECTS) if request.detail == CLOSED_UNHEARD]
    assert closed
    visitors = _Window(history, 0, time.monotonic_ns()).answers(*REDIRECTS)
    assert visitors["asked"] == len(list(history.of(*REDIRECTS))) - len(closed)
    assert CLOSED_UNHEARD not in visitors


async def test_a_create_whose_outcome_is_unknown_is_asked_again_with_its_key(tmp_path: Path) -> None:
    asked = iter(range(10_000))

    def first_ones_cut(method: str, path: str) -> bytes | None:
        return None if method == "POST" and next(asked) < 5 else well(method, path)

    history = await history_of(tmp_path, first_ones_cut)
    tries: dict[str, list[Outcome]] = {}
    for request in history.of(Stream.CREATE):
        tries.setdefault(request.what, []).append(request.outcome)
    assert len(tries) >= RATES[Stream.CREATE] * SECONDS
    assert all(of_key[-1] is Outcome.OK for of_key in tries.values())
    assert sum(len(of_key) - 1 for of_key in tries.values()) == 5


def test_a_count_is_as_old_as_the_oldest_visit_that_is_not_in_it() -> None:
    visits = [Request(n, Stream.BEAT, "b", 0, 0, int((n + 1) * 1e9), Outcome.OK, "307") for n in range(5)]
    looks = [
        Request(n, Stream.COUNT, "b", 0, int(at * 1e9), int(at * 1e9) + 1, Outcome.OK, count)
        for n, (at, count) in enumerate([(2.5, "2"), (4.5, "2"), (9, "5")])
    ]
    assert [age for _, age in freshness(History([*visits, *looks]))] == [0.0, 1.5, 0.0]
