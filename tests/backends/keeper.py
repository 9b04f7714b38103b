"""Runs one server, and lets nothing of it live on. A script: `keeper.py FOLDER COMMAND…`, started by server.py.

Whatever the server starts is a descendant of this process, daemons included (it is a "subreaper": orphans come to it),
however many process groups they hide in. So all of it can be found, and all of it ends

- when the server itself ends, however that happens;
- when standard input is closed, which the kernel does for tests that are done, interrupted or killed. Then nobody will
  start this server again, and its folder goes too.

Only the standard library, and nothing from the project: it starts in milliseconds.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def descendants(ancestor: int) -> list[int]:
    """The processes that come from this one, children first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    generation = children.get(ancestor, [])
    while generation:
        found += generation
        generation = [pid for parent in generation for pid in children.get(parent, [])]
    return found


def signal_all(ancestor: int, number: signal.Signals) -> None:
    """Send a signal to every descendant, also to those that are born meanwhile."""
    reached: set[int] = set()
    while new := set(descendants(ancestor)) - reached:
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        reached |= new


def _remove(folder: Path) -> None:
    for _ in range(100):  # others may still be writing in it: they are being ended as well
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _keep(folder: Path, command: list[str]) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    abandoned = threading.Event()
    server = os.posix_spawnp(command[0], command, os.environ, setsigmask=(), setsigdef=(signal.SIGINT, signal.SIGQUIT))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda number, _: os.kill(server, number))

    def wait_for_the_end_of_the_tests() -> None:
        while os.read(0, 1):
            pass
        abandoned.set()
        signal_all(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_the_end_of_the_tests, daemon=True).start()
    status = 0
    with contextlib.suppress(ChildProcessError):  # raised when the last one has been waited for
        while True:
            pid, ended = os.wait()
            if pid == server:
                status = ended
                signal_all(os.getpid(), signal.SIGKILL)
    if abandoned.is_set():
        _remove(folder)
    return 0 if os.waitstatus_to_exitcode(status) == 0 else 1


if __name__ == "__main__":
    os._exit(_keep(Path(sys.argv[1]), sys.argv[2:]))
