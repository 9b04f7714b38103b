"""The spool where two things go wrong at once: nothing that is on disk is passed over for good."""

import asyncio
import errno
import json
import os
import resource
from pathlib import Path
from typing import NoReturn

import pytest

from tests.events.test_spool import _forget, _seconds, all_identities, appended, opened, taken
from urlshortener.events.spool import _MOST_ADOPTED, Spool

_DAY_SECONDS = 86_400


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


async def spool_with_the_first_event_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """Taken, and not done. Behind it, on disk, are so many that the next write begins another segment."""
    spool = opened(folder, max_bytes=4000)
    with monkeypatch.context() as patch:
        patch.setattr("urlshortener.events.segment.os.write", full)
        await appended(spool)
    assert (await spool.take(1)).first_seq == 0
    while spool._own.bytes_on_disk < 1000:
        await appended(spool)
    return spool


async def test_what_waits_in_memory_goes_to_the_disk_as_soon_as_it_takes_some_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("urlshortener.events.segment.os.write", full)
        for _ in range(100):
            await appended(spool)
    await appended(spool)
    epoch = spool.epoch
    _forget(spool)  # killed
    after = opened(tmp_path)
    batches = await taken(after, 1000)
    assert sorted(seq for batch in batches for seq in range(batch.first_seq, batch.first_seq + batch.count)) == [
        *range(101)
    ]
    assert {batch.highest_seq for batch in batches} == {100}, "the newest stands before the others"
    assert {batch.epoch for batch in batches} == {epoch}


async def test_what_waits_in_memory_leaves_as_many_events_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urlshortener.events.segment.os.write", full)
    spool = opened(tmp_path)
    for _ in range(600):
        await appended(spool)
    first, second = await spool.take(256), await spool.take(256)
    assert [(batch.first_seq, batch.count) for batch in (first, second)] == [(0, 256), (256, 256)]
    assert len(json.loads(b"[%b]" % second.body)) == 256
    spool.done(second)
    spool.rewind()
    assert [(batch.first_seq, batch.count) for batch in await taken(spool, 256)] == [(0, 256), (512, 88)]
    assert spool.unsent == 344


async def test_what_waited_in_memory_is_written_at_the_end_and_found_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers are lower than the cursor's: that must not make it look done."""
    spool = await spool_with_the_first_event_in_memory(tmp_path, monkeypatch)
    epoch, count = spool.epoch, spool.unsent
    from_disk = await spool.take(1)
    assert from_disk.first_seq == 1
    spool.done(from_disk)
    spool.close()
    after = opened(tmp_path)
    assert after.unsent > 0
    assert await all_identities(after) == {(epoch, 0)} | {(epoch, seq) for seq in range(2, count)}


async def test_an_adopted_epoch_is_never_said_to_be_sent_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await spool_with_the_first_event_in_memory(tmp_path, monkeypatch)
    spool.close()
    after = opened(tmp_path)
    batches = await taken(after, 1)
    for batch in batches:
        assert after.unsent > 0
        after.done(batch)
    assert after.unsent == 0


async def test_a_torn_write_that_cannot_be_cut_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    await appended(spool)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(
            "urlshortener.events.segment.os.write",
            lambda file, data: write(file, data[:50]) if len(data) > 50 else full(),
        )
        patch.setattr("urlshortener.events.segment.os.ftruncate", full)
        patch.setattr("urlshortener.events.memory.MOST_BYTES_IN_MEMORY", 0)
        await appended(spool)
    await appended(spool)
    epoch = spool.epoch
    assert await all_identities(spool) == {(epoch, 0), (epoch, 2)}
    _forget(spool)
    assert await all_identities(opened(tmp_path)) == {(epoch, 0), (epoch, 2)}


async def _left_behind(folder: Path) -> str:
    """The epoch of a killed process, with one event in it."""
    dead = opened(folder)
    await appended(dead)
    _forget(dead)
    return dead.epoch


async def test_what_is_too_old_and_cannot_be_set_aside_stays_and_holds_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "quarantine").write_text("no folder")
    old_epoch = await _left_behind(tmp_path)
    spool = opened(tmp_path, clock=lambda: _seconds() + 8 * _DAY_SECONDS)
    assert await taken(spool) == []
    spool.close()
    (tmp_path / "quarantine").unlink()
    assert await all_identities(opened(tmp_path)) == {(old_epoch, 0)}


async def test_what_the_disk_did_not_give_back_once_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_epoch = await _left_behind(tmp_path)
    now = _seconds()
    with monkeypatch.context() as patch:
        patch.setattr("urlshortener.events.spool.Epoch.adopted", full)
        spool = opened(tmp_path, clock=lambda: now)
        assert await taken(spool) == []
    assert await taken(spool) == []
    now += 61
    assert await all_identities(spool) == {(old_epoch, 0)}


async def test_one_request_that_is_cancelled_takes_no_other_with_it(tmp_path: Path) -> None:
    spool = opened(tmp_path)

    async def request() -> str:
        await appended(spool)
        return "answered"

    left, stayed = asyncio.create_task(request()), asyncio.create_task(request())
    await asyncio.sleep(0)  # both have appended, and nothing is written yet
    left.cancel()
    assert await asyncio.wait_for(stayed, 1) == "answered"
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await all_identities(spool) == {(spool.epoch, 0), (spool.epoch, 1)}


async def test_an_append_after_the_end_is_still_answered(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.close()
    await asyncio.wait_for(appended(spool), 1)


async def test_done_after_the_end_touches_nothing_that_may_be_another_s(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    await appended(spool)
    batch = await spool.take()
    spool.close()
    spool.done(batch)
    assert await all_identities(opened(tmp_path)) == {(batch.epoch, 0)}


async def test_what_waits_in_memory_goes_to_the_disk_though_nobody_comes_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urlshortener.events.spool._TRY_DISK_SECONDS", 0.001)
    spool = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("urlshortener.events.segment.os.write", full)
        await appended(spool)
        await asyncio.sleep(0.01)
        assert spool._in_memory
    async with asyncio.timeout(5):
        while spool._in_memory:
            await asyncio.sleep(0.001)
    epoch = spool.epoch
    _forget(spool)  # killed
    assert await all_identities(opened(tmp_path)) == {(epoch, 0)}


async def test_its_bound_is_for_all_that_lies_there_of_however_many_dead_processes(tmp_path: Path) -> None:
    def bytes_on_disk() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    for _ in range(2 * _MOST_ADOPTED):
        dead = opened(tmp_path)
        for _ in range(20):
            await appended(dead)
        _forget(dead)
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "something.damaged").write_bytes(bytes(10_000))
    left = bytes_on_disk()
    bound = left + 20_000
    spool = opened(tmp_path, max_bytes=bound)
    for _ in range(200):
        await appended(spool)
    assert bound - 1_000 < bytes_on_disk() <= bound
    assert left - 11_000 < spool._bytes_left() - spool._own.bytes_on_disk <= left - 10_000  # but for their cursors
    assert spool._in_memory


async def test_a_spool_of_a_living_process_is_no_part_of_anothers_bound(tmp_path: Path) -> None:
    neighbour = opened(tmp_path)
    for _ in range(100):
        await appended(neighbour)
    spool = opened(tmp_path, max_bytes=4_000)
    await appended(spool)
    assert not spool._in_memory
    assert spool._bytes_left() == spool._own.bytes_on_disk


async def test_a_disk_that_gives_nothing_back_is_no_reason_to_say_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    await appended(spool)
    assert spool._own.oldest_ms is not None
    monkeypatch.setattr("urlshortener.events.segment.os.pread", full)
    assert spool._oldest_seconds() == 0


async def test_a_dead_letter_that_the_disk_did_not_take_leaves_no_half_of_it(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.set_aside(b"x" * 99)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match=r"."):
                spool.set_aside(b"y" * 99)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    spool.set_aside(b"z" * 99)
    assert (tmp_path / "dead-letters.jsonl").read_bytes() == b"x" * 99 + b"\n" + b"z" * 99 + b"\n"
