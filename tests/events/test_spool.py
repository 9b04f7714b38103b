"""The spool: what was answered is on disk, and everything on disk is given out until it is done."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.events.long_spool import drained, leave
from urlshortener.events.spool import Batch, Spool
from urlshortener.telemetry import EVENTS_UNSPOOLED, SPOOL_TORN

_AT = datetime(2026, 11, 23, 10, 0, 0, 123456, UTC)
_PLENTY = 1 << 30


def _seconds() -> float:
    return _AT.timestamp()


def opened(folder: Path, max_bytes: int = _PLENTY, clock: Callable[[], float] = _seconds) -> Spool:
    return Spool(folder, max_bytes, clock)


def appended(spool: Spool, code: str = "cat") -> "asyncio.Future[None]":
    return spool.append(code, _AT, "Mozilla/5.0", "192.0.2.0", "https://example.com/", "9f2c")


def identities(batch: Batch) -> list[tuple[str, int]]:
    events = json.loads(b"[" + batch.body + b"]")
    assert [event["seq"] for event in events] == list(range(batch.first_seq, batch.first_seq + batch.count))
    return [(event["epoch"], event["seq"]) for event in events]


async def taken(spool: Spool, most: int = 256) -> list[Batch]:
    """All that it gives out now, without waiting for more."""
    batches = []
    while batch := spool._take(most):
        batches.append(batch)
    return batches


async def all_identities(spool: Spool) -> set[tuple[str, int]]:
    found = [identity for batch in await taken(spool) for identity in identities(batch)]
    assert len(found) == len(set(found))
    return set(found)


async def test_an_append_is_in_the_file_once_its_future_is_done(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await appended(spool, "hello-cat")
    written = b"".join(path.read_bytes() for path in tmp_path.glob("*/*.frames"))
    assert b'"code":"hello-cat"' in written


async def test_all_appends_of_a_turn_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    writes: list[int] = []
    write = os.write

    def noted(file: int, data: bytes) -> int:
        writes.append(len(data))
        return write(file, data)

    monkeypatch.setattr("urlshortener.events.segment.os.write", noted)
    futures = [appended(spool) for _ in range(64)]
    assert not writes
    await asyncio.gather(*futures)
    assert len(writes) == 1
    (batch,) = await taken(spool)
    assert batch.count == 64


@pytest.mark.parametrize("disk_is_full", [False, True])
async def test_visitors_who_say_as_much_as_they_may_make_no_large_messages(tmp_path: Path, disk_is_full: bool) -> None:
    """Whoever counts is handed a thousand of them at once."""
    spool = opened(tmp_path)
    if disk_is_full:
        spool._max_bytes = 0
    for at_once in (300, 20, 20):
        futures = [spool.append("cat", _AT, "é" * 512, "192.0.2.0", "é" * 1024, "9f2c") for _ in range(at_once)]
        await asyncio.gather(*futures)
    batches = await taken(spool)
    assert {identity for batch in batches for identity in identities(batch)} == {(spool.epoch, n) for n in range(340)}
    assert max(len(batch.body) for batch in batches) <= 256 * 1024
    assert len(batches) < 10


async def test_what_is_not_done_is_given_out_again_after_a_rewind(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for _ in range(3):
        await appended(spool)
    first, second, third = [await spool.take(1) for _ in range(3)]
    spool.done(second)
    spool.done(first)
    spool.rewind()
    (again,) = await taken(spool)
    assert identities(again) == identities(third)
    spool.done(again)
    assert spool.unsent == 0


async def test_a_killed_process_leaves_its_events_to_the_next_under_their_own_numbers(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    for _ in range(5):
        await appended(dead)
    epoch = dead.epoch
    _forget(dead)
    spool = opened(tmp_path)
    assert spool.epoch != epoch
    await appended(spool)
    assert await all_identities(spool) == {(epoch, seq) for seq in range(5)} | {(spool.epoch, 0)}


async def test_a_living_process_keeps_its_spool_to_itself(tmp_path: Path) -> None:
    alive, other = opened(tmp_path), opened(tmp_path)
    await appended(alive)
    assert await taken(other) == []
    assert len(await taken(alive)) == 1


async def test_a_closed_spool_that_is_all_done_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await appended(spool)
    spool.end_epoch()
    for batch in await taken(spool):
        spool.done(batch)
    assert spool.unsent == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


async def test_wherever_a_write_is_torn_the_frames_before_it_are_kept(tmp_path: Path) -> None:
    """Every length that the last write may have had when the process died."""
    dead = opened(tmp_path / "made")
    await appended(dead)
    await appended(dead)
    whole = next((tmp_path / "made").glob("*/*.frames"))
    before = whole.stat().st_size
    await appended(dead)
    content, epoch = whole.read_bytes(), dead.epoch
    _forget(dead)
    for length in range(before, len(content) + 1):
        folder = tmp_path / str(length) / epoch
        folder.mkdir(parents=True)
        (folder / whole.name).write_bytes(content[:length])
        spool = opened(folder.parent)
        expected = {(epoch, 0), (epoch, 1)} | ({(epoch, 2)} if length == len(content) else set())
        assert await all_identities(spool) == expected, length
        spool.close()


async def test_a_damaged_frame_costs_only_itself_and_is_set_aside(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    for _ in range(3):
        await appended(dead)
    path = next(tmp_path.glob("*/*.frames"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    epoch = dead.epoch
    _forget(dead)
    torn = SPOOL_TORN._value.get()
    spool = opened(tmp_path)
    assert await all_identities(spool) == {(epoch, 0), (epoch, 2)}
    assert SPOOL_TORN._value.get() == torn + 1
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


async def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    write = os.write
    monkeypatch.setattr("urlshortener.events.segment.os.write", lambda file, data: write(file, data[:7]))
    await appended(spool)
    monkeypatch.undo()
    assert await all_identities(spool) == {(spool.epoch, 0)}


async def test_a_full_disk_stops_no_redirect_and_loses_nothing_while_memory_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    await appended(spool)
    write = os.write

    def full(file: int, data: Any) -> int:
        """As the kernel does it: a part first, and then the error."""
        if len(data) > 50:
            return write(file, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("urlshortener.events.segment.os.write", full)
    await asyncio.wait_for(appended(spool), 1)
    monkeypatch.undo()
    await appended(spool)
    assert await all_identities(spool) == {(spool.epoch, seq) for seq in range(3)}


async def test_a_real_limit_of_the_file_system_stops_no_redirect_and_loses_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: all appends are answered, and what no file took is given out."""
    script = f"""
import asyncio, resource, signal
from pathlib import Path
from tests.events.test_spool import appended, opened, taken
from urlshortener.telemetry import EVENTS_UNSPOOLED
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
async def main():
    spool = opened(Path({str(tmp_path)!r}))
    for _ in range(100):
        await asyncio.wait_for(appended(spool), 5)
    batches = await taken(spool)
    print(sum(batch.count for batch in batches), batches[0].first_seq > 0, EVENTS_UNSPOOLED._value.get())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "100 True 0.0\n", done.stderr
    found = sorted(seq for _, seq in await all_identities(opened(tmp_path)))
    assert 0 < len(found) < 100, "of a process that is killed now, only what the file took is left"
    assert found == list(range(len(found)))


async def test_over_its_bound_it_keeps_some_in_memory_and_counts_what_it_cannot(tmp_path: Path) -> None:
    lost = EVENTS_UNSPOOLED._value.get()
    spool = opened(tmp_path, max_bytes=20_000)
    for _ in range(30_000):
        appended(spool)
    await appended(spool)
    given = await all_identities(spool)
    missing = EVENTS_UNSPOOLED._value.get() - lost
    assert missing > 0
    assert len(given) + missing == 30_001
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*/*.frames"))
    assert on_disk <= 20_000


async def test_a_long_spool_drains_without_memory_growing(tmp_path: Path) -> None:
    """64 MiB here; `python -m tests.events.long_spool 1024` does it with 1 GiB and a real broker."""
    events = leave(tmp_path, 64)
    done = await drained(tmp_path, None, 60)
    assert done.events == events > 150_000
    assert done.grown_mib < 16
    assert not list(tmp_path.glob("*-AAAA*"))


async def test_the_last_batch_of_a_dead_epoch_says_so(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    for _ in range(3):
        await appended(dead)
    _forget(dead)
    spool = opened(tmp_path)
    assert [(await spool.take(1)).last_of_epoch for _ in range(3)] == [False, False, True]


async def test_every_batch_says_how_far_its_epoch_had_come(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for _ in range(3):
        await appended(spool)
    first = await spool.take(1)
    await appended(spool)
    assert [first.highest_seq, *[batch.highest_seq for batch in await taken(spool, 1)]] == [2, 3, 3, 3]


@pytest.mark.parametrize("killed", [False, True])
async def test_an_epoch_whose_events_are_all_gone_ends_with_a_batch_of_its_own(tmp_path: Path, killed: bool) -> None:
    spool = opened(tmp_path)
    epoch = spool.epoch
    for _ in range(3):
        await appended(spool)
        spool.done(await spool.take())
    if killed:
        spool._save_cursors()
        _forget(spool)
        spool = opened(tmp_path)
    else:
        spool.end_epoch()
    assert spool.unsent == 1
    end = await spool.take()
    assert (end.epoch, end.first_seq, end.count, end.body) == (epoch, 3, 0, b"")
    assert (end.last_of_epoch, end.highest_seq) == (True, 2)
    spool.rewind()
    assert await taken(spool) == [end], "it is told until somebody has it"
    spool.done(end)
    assert spool.unsent == 0
    assert await taken(spool) == []


async def test_what_comes_after_the_end_is_kept_and_is_the_end(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await appended(spool)
    spool.end_epoch()
    spool.done(await spool.take())
    await appended(spool)
    last = await spool.take()
    assert (last.first_seq, last.count, last.last_of_epoch) == (1, 1, True)


async def test_the_end_of_an_epoch_that_nobody_remembers_is_not_told(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    await appended(dead)
    dead.done(await dead.take())
    dead._save_cursors()
    _forget(dead)
    spool = opened(tmp_path, clock=lambda: _seconds() + 8 * 86400)
    assert await taken(spool) == []
    assert spool.unsent == 0


async def test_what_is_older_than_a_week_is_set_aside_and_never_sent(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    await appended(dead)
    _forget(dead)
    spool = opened(tmp_path, clock=lambda: _seconds() + 8 * 86400)
    assert await taken(spool) == []
    assert len(list((tmp_path / "quarantine").glob("*.old"))) == 1


async def test_a_spool_of_another_version_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "019300000000-AAAAAAAAAAAAAAAA"
    folder.mkdir()
    (folder / f"{0:020d}.frames").write_bytes(b"USF9 and what comes after")
    spool = opened(tmp_path)
    await appended(spool)
    assert await all_identities(spool) == {(spool.epoch, 0)}
    assert (folder / f"{0:020d}.frames").exists()


def test_a_killed_writer_has_on_disk_all_that_it_said_was_written(tmp_path: Path) -> None:
    """SIGKILL in the middle of appending, again and again: every number that was reported is found."""
    script = f"""
import asyncio
from pathlib import Path
from tests.events.test_spool import appended, opened
async def main():
    spool = opened(Path({str(tmp_path)!r}))
    seq = 0
    while True:
        futures = [appended(spool) for _ in range(seq % 7 + 1)]
        await asyncio.gather(*futures)
        seq += len(futures)
        print(spool.epoch, seq, flush=True)
asyncio.run(main())
"""
    said: dict[str, int] = {}
    for lines in range(1, 60, 12):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            heard = [writer.stdout.readline() for _ in range(lines)]
            writer.send_signal(signal.SIGKILL)
            heard += writer.stdout.readlines()
            of_epoch, so_many = next(line for line in reversed(heard) if line.endswith("\n")).split()
            said[of_epoch] = int(so_many)

    async def found() -> set[tuple[str, int]]:
        return await all_identities(opened(tmp_path))

    identities_found = asyncio.run(found())
    for epoch, count in said.items():
        assert {(epoch, seq) for seq in range(count)} <= identities_found


def _forget(spool: Spool) -> None:
    """As if its process were killed: nothing more is written, and the lock is free."""
    for epoch in spool._sending():
        epoch.let_go()
    spool._is_closed = True


class SpoolModel(RuleBasedStateMachine):
    """Appends, takes, dones in any order, rewinds and kills: nothing is lost, invented or numbered twice."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = type(self).folder / str(len(list(type(self).folder.iterdir())))
        self.root.mkdir()
        self.spool = opened(self.root)
        self.appended: set[tuple[str, int]] = set()
        self.done: set[tuple[str, int]] = set()
        self.out: list[Batch] = []
        self.next_seq = 0

    def teardown(self) -> None:
        self.rewind()
        while (batch := self._take(256)) is not None:
            self._finish(batch)
        self.spool.close()
        self.loop.close()
        assert self.done == self.appended

    def _take(self, most: int) -> Batch | None:
        return self.spool._take(most)

    def _finish(self, batch: Batch) -> None:
        async def done() -> None:
            self.spool.done(batch)

        self.loop.run_until_complete(done())
        self.done |= set(identities(batch))

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        async def append() -> None:
            await asyncio.gather(*(appended(self.spool) for _ in range(count)))

        self.loop.run_until_complete(append())
        self.appended |= {(self.spool.epoch, self.next_seq + n) for n in range(count)}
        self.next_seq += count

    @rule(most=st.integers(1, 8))
    def take(self, most: int) -> None:
        batch = self._take(most)
        if batch is not None:
            assert set(identities(batch)) <= self.appended
            assert not set(identities(batch)) & {i for out in self.out for i in identities(out)}
            self.out.append(batch)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self._finish(self.out.pop(data.draw(st.integers(0, len(self.out) - 1))))

    @rule()
    def rewind(self) -> None:
        self.spool.rewind()
        self.out.clear()

    @rule(cleanly=st.booleans())
    def restart(self, cleanly: bool) -> None:
        if cleanly:
            self.spool.close()
        else:
            _forget(self.spool)
        self.spool = opened(self.root)
        self.out.clear()
        self.next_seq = 0

    @invariant()
    def nothing_unsent_is_forgotten(self) -> None:
        left = len(self.appended - self.done)
        assert self.spool.unsent >= (min(left, 1) if self.spool._saw_more else left)


def test_whatever_is_done_with_a_spool_nothing_is_lost_or_invented(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Model(SpoolModel):
        folder = tmp_path

    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
