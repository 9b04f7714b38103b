"""wrk, told what to send: as many requests as are answered, from so many connections at once.

How much a server can do is asked so. How long one waits is not: a slow server is asked less (harness/open_loop.py).
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.harness import cores

_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What came back."""

    seconds: float
    completed: int  # requests whose answer was read
    sent: int  # the same, and those that were under way at the end
    errors: int  # statuses from 400, broken and timed out connections
    p50_ms: float
    p99_ms: float

    @property
    def a_second(self) -> float:
        return self.completed / self.seconds


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """A file of requests for `run`: each behind its length."""
    with path.open("wb") as file:
        for request in requests:
            file.write(b"%d\n%b" % (len(request), request))
    return path


def run(url: str, requests: Path, *, connections: int, seconds: float, on: Sequence[int] = (cores.LOAD,)) -> Load:
    """One thread of wrk, on its core (or one of those), for whole seconds."""
    where = urlsplit(url)
    command = [
        *("taskset", "-c", ",".join(map(str, on)), "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"),
        *("--timeout", "10s", "-s", str(_SCRIPT), f"{where.scheme}://{where.netloc}/", "--", str(requests)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    told = json.loads(done.stdout.rpartition("JSON ")[2])
    return Load(
        seconds=told["duration_us"] / 1e6,
        completed=told["requests"],
        sent=told["sent"],
        errors=told["errors"],
        p50_ms=told["p50_us"] / 1000,
        p99_ms=told["p99_us"] / 1000,
    )
