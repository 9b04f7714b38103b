"""SPOOL_MODE=strict: a visitor leaves when the broker has confirmed his visit, or is told to come again."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.backends.rabbitmq import Rabbitmq
from tests.events.test_amqp_publisher import broker_of, numbers_in, publishing, received, until
from tests.events.test_spool import _AT, appended
from urlshortener.errors import ChannelUnavailable
from urlshortener.events import strict
from urlshortener.events.spool import Spool


def opened(folder: Path, max_bytes: int = 1 << 30) -> Spool:
    return Spool(folder, max_bytes, _AT.timestamp, strict=True)


async def test_an_append_is_done_when_its_events_are_in_the_file_and_elsewhere(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, second = appended(spool), appended(spool)
    batch = await spool.take(1)
    assert (batch.first_seq, batch.count) == (0, 2), "a frame is never torn apart"
    assert not first.done(), "on disk is not enough"
    spool.done(batch)
    assert first.done() and second.done()


async def test_a_turn_is_done_when_all_of_it_is_in_whatever_order_it_went(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    turns = {appended(spool) for _ in range(300)}
    (turn,) = turns
    first, second = await spool.take(), await spool.take()
    spool.done(second)
    spool.done(second)
    assert not turn.done()
    spool.done(first)
    assert turn.done() and turn.exception() is None


async def test_who_waits_too_long_is_refused_and_his_visit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "LIMIT_SECONDS", 0.05)
    spool = opened(tmp_path)
    with pytest.raises(ChannelUnavailable):
        await appended(spool)
    spool.done(await spool.take())
    assert spool.unsent == 0


async def test_who_cannot_be_kept_at_all_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urlshortener.events.memory.MOST_BYTES_IN_MEMORY", 0)
    spool = opened(tmp_path, max_bytes=1)
    began = time.monotonic()
    with pytest.raises(ChannelUnavailable):
        await appended(spool)
    assert time.monotonic() - began < strict.LIMIT_SECONDS / 2


async def test_what_no_disk_takes_goes_straight_to_the_broker_and_is_answered_then(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=1)
    turn = appended(spool)
    batch = await spool.take()
    assert not turn.done()
    spool.done(batch)
    assert turn.done()


async def test_while_a_real_broker_is_killed_nobody_is_answered_without_its_confirm(
    own_rabbitmq: Rabbitmq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "LIMIT_SECONDS", 1.0)
    broker = broker_of(own_rabbitmq, own_rabbitmq.fresh_vhost())
    spool = opened(tmp_path)
    answered: set[int] = set()
    refused: set[int] = set()
    stop = asyncio.Event()

    async def visitors() -> None:
        while not stop.is_set():
            number = spool._next_seq
            try:
                await appended(spool)
                answered.add(number)
            except ChannelUnavailable:
                refused.add(number)

    async with publishing(broker, spool) as publisher:  # type: ignore[arg-type]
        visiting = [asyncio.create_task(visitors()) for _ in range(8)]
        await until(lambda: len(answered) > 50, "some are answered")
        await asyncio.to_thread(own_rabbitmq.kill)
        answered_before_it_died = len(answered)
        await until(lambda: len(refused) >= 16, "the others are refused")
        assert len(answered) <= answered_before_it_died + 8
        await asyncio.to_thread(own_rabbitmq.start)
        count = len(answered)
        await until(lambda: len(answered) > count + 50, "it goes on by itself", 30)
        stop.set()
        await asyncio.wait(visiting)
        assert await publisher.drain(15) == 0
    arrived = set(numbers_in(await received(broker)))
    assert answered <= arrived, "answered, and lost"
    assert refused <= arrived, "the spool has them as well"
