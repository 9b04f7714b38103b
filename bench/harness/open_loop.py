"""Visitors who come when they come, whether the server is slow or not: how long does one wait?

A request is due at a time that was fixed before the first was sent. What it waits for, a free connection included, is
part of its time. The tool spins on a core of its own; how late it was itself is told too.
"""

import gc
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bench.harness import cores

_PATIENCE_SECONDS = 10.0  # for the last answers
_REDIRECT = b"HTTP/1.1 307 "


@dataclass(frozen=True, slots=True)
class Waits:
    """How long visitors waited, from when they were due until they had their answer."""

    a_second: float  # so many came
    took_seconds: float  # until the last was answered
    redirected: int
    errors: int  # other answers, broken connections, and those that were not answered
    p50_ms: float
    p99_ms: float
    p999_ms: float
    longest_ms: float
    late_p99_ms: float  # how late the tool itself was in sending, for want of time or of a free connection


def run(
    url: str,
    requests: Path,
    *,
    a_second: float,
    seconds: float,
    connections: int = 64,
    on: Sequence[int] = (cores.LOAD,),
    spins: bool = True,
) -> Waits:
    """Send visitors at that rate, from a process of its own. One that does not spin may be a millisecond late."""
    words = [url, str(requests), str(a_second), str(seconds), str(connections), str(0 if spins else 0.001)]
    command = ["taskset", "-c", ",".join(map(str, on)), sys.executable, "-m", "bench.harness.open_loop", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + _PATIENCE_SECONDS + 30)
    return msgspec.json.decode(done.stdout, type=Waits)


def read_requests(path: Path) -> list[bytes]:
    """As closed_loop.write_requests wrote them."""
    requests = []
    with path.open("rb") as file:
        while length := file.readline():
            requests.append(file.read(int(length)))
    return requests


def visit(
    url: str, requests: Sequence[bytes], *, a_second: float, seconds: float, connections: int, nap_seconds: float
) -> Waits:
    """Send them, and spin (or nap) until all are answered.

    One loop without a call that it can do without: at 40,000 a second there are 25 µs for each.
    """
    where = urlsplit(url)
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(connections):
        connection = socket.create_connection((where.hostname, where.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        sockets[connection.fileno()] = connection
        epoll.register(connection.fileno(), select.EPOLLIN)
    idle = deque(sockets)
    due: dict[int, float] = {}
    waits, lateness = array("d"), array("d")
    clock, poll = time.perf_counter, epoll.poll
    total, interval, count = round(a_second * seconds), 1 / a_second, len(requests)
    sent = redirected = broken = 0
    next_due = began = clock()
    give_up_at = began + seconds + _PATIENCE_SECONDS
    while redirected + broken < total and (now := clock()) < give_up_at:
        while idle and next_due <= now and sent < total:
            number = idle.popleft()
            sockets[number].send(requests[sent % count])
            due[number] = next_due
            lateness.append(now - next_due)
            sent += 1
            next_due = began + sent * interval
        for number, _ in poll(nap_seconds):
            answer = sockets[number].recv(4096)
            waits.append(clock() - due[number])
            if answer.startswith(_REDIRECT):  # so short that it comes in one piece
                redirected += 1
                idle.append(number)
            else:
                broken += 1
                epoll.unregister(number)
    for connection in sockets.values():
        connection.close()
    took_seconds = clock() - began
    waited, late = sorted(waits), sorted(lateness)
    return Waits(
        a_second,
        took_seconds,
        redirected,
        total - redirected,
        p50_ms=_share(waited, 0.5),
        p99_ms=_share(waited, 0.99),
        p999_ms=_share(waited, 0.999),
        longest_ms=_share(waited, 1),
        late_p99_ms=_share(late, 0.99),
    )


def _share(ordered: Sequence[float], share: float) -> float:
    """In milliseconds, what that share of them stayed below."""
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


if __name__ == "__main__":
    gc.disable()
    _, address, file, *numbers, how_many, nap = sys.argv
    made = visit(
        address,
        read_requests(Path(file)),
        a_second=float(numbers[0]),
        seconds=float(numbers[1]),
        connections=int(how_many),
        nap_seconds=float(nap),
    )
    sys.stdout.buffer.write(msgspec.json.encode(made))
