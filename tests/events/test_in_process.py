"""The spool as a channel: what only this channel can go wrong in. Its promises: test_event_source.py."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from urlshortener.events.in_process import InProcessSource, SpoolDelivery
from urlshortener.events.spool import Spool

_AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path, 1 << 26, _AT.timestamp)
    yield spool
    spool.close()


async def sent(spool: Spool, *codes: str) -> None:
    """In one turn, and so in one frame."""
    written = [spool.append(code, _AT, None, None, None, None) for code in codes]
    await asyncio.gather(*written)


async def the_next(deliveries: AsyncIterator[SpoolDelivery], limit_seconds: float = 5) -> SpoolDelivery:
    return await asyncio.wait_for(anext(deliveries), limit_seconds)


async def test_what_is_no_event_is_set_aside_alone_and_its_neighbours_are_counted(spool: Spool, tmp_path: Path) -> None:
    await sent(spool, "cat", "no code at all", "dog")
    async with InProcessSource(spool).deliveries() as deliveries:
        delivery = await the_next(deliveries)
        assert [event.code for event in delivery.events] == ["cat", "dog"]
        delivery.acknowledge()
    (letter,) = (tmp_path / "dead-letters.jsonl").read_text().splitlines()
    assert json.loads(json.loads(letter)["body"])["code"] == "no code at all"
    assert "code" in json.loads(letter)["reason"]
    assert spool.unsent == 0


async def test_a_batch_without_any_event_blocks_nothing(spool: Spool) -> None:
    await sent(spool, "no code at all")
    async with InProcessSource(spool).deliveries() as deliveries:
        empty = await the_next(deliveries)
        assert empty.events == [] and empty.progress.highest_seq == 0, "what was set aside is told, and will be missed"
        await sent(spool, "cat")
        delivery = await the_next(deliveries)
        assert {event.code for event in delivery.events} == {"cat"}
        empty.acknowledge()
        delivery.acknowledge()
    assert spool.unsent == 0


async def test_what_cannot_be_set_aside_stays_in_the_spool(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "dead-letters.jsonl").mkdir()
    await sent(spool, "no code at all")
    async with InProcessSource(spool).deliveries() as deliveries:
        with pytest.raises(TimeoutError):
            await the_next(deliveries, 0.1)
    assert spool.unsent == 1


async def test_what_could_not_be_set_aside_comes_again_with_what_was_beside_it(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urlshortener.events.in_process._AGAIN_SECONDS", 0.05)
    (tmp_path / "dead-letters.jsonl").mkdir()
    await sent(spool, "cat", "no code at all")
    async with InProcessSource(spool).deliveries() as deliveries:
        waiting = asyncio.create_task(the_next(deliveries))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        (tmp_path / "dead-letters.jsonl").rmdir()
        delivery = await waiting
        assert [event.code for event in delivery.events] == ["cat"]
        delivery.acknowledge()
    assert spool.unsent == 0


async def test_no_more_than_so_many_events_are_out(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urlshortener.events.in_process._MOST_EVENTS_OUT", 512)
    await sent(spool, *["cat"] * 1000)
    async with InProcessSource(spool).deliveries() as deliveries:
        out = [await the_next(deliveries) for _ in range(2)]
        waiting = asyncio.ensure_future(anext(deliveries))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        out[1].acknowledge()
        assert len((await asyncio.wait_for(waiting, 5)).events) == 256


async def test_what_was_given_back_is_acknowledged_by_nobody_but_its_next_receiver(spool: Spool) -> None:
    await sent(spool, "cat")
    async with InProcessSource(spool).deliveries() as deliveries:
        first = await the_next(deliveries)
        first.give_back()
        first.acknowledge()
        assert spool.unsent == 1
        second = await the_next(deliveries)
        assert second.events == first.events
        second.acknowledge()
        assert spool.unsent == 0
