"""Every point at which the spool can die: instead of each of its system calls (half of it, where it is a write), and
after it.

A child lives through all that a spool does (adopts a dead one, appends, rotates, gives out, marks, ends) and is killed
at the n-th call, for every n. Whatever it had answered and nobody had confirmed must be found by the next.
"""

import asyncio
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.events.test_spool import _forget, all_identities, appended, identities, opened
from urlshortener.events import epoch as epochs
from urlshortener.events.spool import Spool

_CALLS = ("open", "write", "pwrite", "ftruncate", "close", "unlink", "rmdir", "mkdir", "rename")
_ENOUGH = 1000  # more calls than the life has: the last n ends it undisturbed


class _Dies:
    """Ends this process at the n-th call, at the moment that is asked for."""

    def __init__(self, at: int, moment: str) -> None:
        self.left = at
        self.moment = moment

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left:
                return call(*arguments, **options)
            if self.moment == "after":
                call(*arguments, **options)
            elif call is _write:
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os._exit(9)

        return dying


_write = os.write


def _live(folder: Path, says: int, dies: _Dies) -> None:
    """In the child: all that happens to a spool, telling the parent what was asked for, answered and done."""

    def say(what: str, events: list[tuple[str, int]]) -> None:
        _write(says, (json.dumps([what, events]) + "\n").encode())

    async def life() -> None:
        spool = opened(folder, max_bytes=8_000)
        seq = 0
        for turn in range(8):
            say("asked", [(spool.epoch, seq + n) for n in range(3)])
            futures = [appended(spool) for _ in range(3)]
            await asyncio.gather(*futures)
            say("answered", [(spool.epoch, seq + n) for n in range(3)])
            seq += 3
            if turn % 3 == 1:
                _mark(spool, say, 2)
        spool.rewind()
        _mark(spool, say, 100)
        spool._save_cursors()
        spool.end_epoch()
        _mark(spool, say, 100)
        spool.close()

    for name in _CALLS:
        setattr(os, name, dies.wrapped(getattr(os, name)))
    fcntl.flock = dies.wrapped(fcntl.flock)
    asyncio.run(life())


def _mark(spool: Spool, say: Callable[[str, list[tuple[str, int]]], None], most: int) -> None:
    for _ in range(most):
        batch = spool._take(4)
        if batch is None:
            return
        say("done", identities(batch))
        spool.done(batch)


def _lived(folder: Path, dies: _Dies) -> tuple[int, dict[str, set[tuple[str, int]]]]:
    """The exit code of such a life, and what it had said."""
    reading, says = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            _live(folder, says, dies)
            code = 0
        finally:
            os._exit(code)
    os.close(says)
    with os.fdopen(reading) as pipe:
        said: dict[str, set[tuple[str, int]]] = {"asked": set(), "answered": set(), "done": set()}
        for line in pipe:
            what, events = json.loads(line)
            said[what].update((epoch, seq) for epoch, seq in events)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


async def _left_by_a_dead_one(folder: Path) -> set[tuple[str, int]]:
    """With a torn end, which has to be set aside."""
    dead = opened(folder, max_bytes=8_000)
    for _ in range(5):
        await appended(dead)
    events = {(dead.epoch, seq) for seq in range(5)}
    _forget(dead)
    (*_, last) = sorted(folder.glob("*/*.frames"))
    with last.open("ab") as file:
        file.write(b"USF1 torn")
    return events


@pytest.mark.parametrize("moment", ["in", "after"])
def test_wherever_it_dies_what_was_answered_is_found_and_nothing_else(tmp_path: Path, moment: str) -> None:
    pattern = tmp_path / "pattern"
    from_before = asyncio.run(_left_by_a_dead_one(pattern))
    for point in range(1, _ENOUGH):
        folder = tmp_path / str(point)
        shutil.copytree(pattern, folder)
        code, said = _lived(folder, _Dies(point, moment))
        found = asyncio.run(_found(folder))
        where = f"killed {moment} call {point}"
        assert code in (0, 9), where
        assert said["answered"] | from_before <= found | said["done"], f"lost: {where}"
        assert found <= said["asked"] | from_before, f"invented: {where}"
        if code == 0:
            assert point > 40, "it has seen them all"
            assert said["done"] == said["answered"] | from_before
            assert not found
            return
        shutil.rmtree(folder)
    raise AssertionError("it never came to its end")


async def _found(folder: Path) -> set[tuple[str, int]]:
    """What the next process gives out; and once more, what the one after that does."""
    spool = opened(folder)
    found = await all_identities(spool)
    _forget(spool)
    again = opened(folder)
    assert await all_identities(again) == found
    _forget(again)
    return found


def test_the_calls_that_are_watched_are_those_that_the_spool_makes() -> None:
    """Whoever writes with another call has to name it above."""
    sources = [Path(module.__file__ or "").read_text() for module in (epochs,)]
    sources.append((Path(epochs.__file__).parent / "segment.py").read_text())
    used = {word.split("(")[0] for source in sources for word in source.split("os.")[1:] if "(" in word[:12]}
    assert used - {"pread", "fstat"} <= set(_CALLS)
