"""A spool that a dead process left, of any length; and how fast and in how much memory the next one sends it.

python -m tests.events.long_spool 1024     1 GiB, to a real RabbitMQ: minutes, and as much disk twice
"""

import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tests.backends.rabbitmq import Rabbitmq
from urlshortener.events.amqp import AmqpPublisher, Broker, Topology
from urlshortener.events.epoch import Epoch
from urlshortener.events.segment import Frame
from urlshortener.events.spool import Spool

_EVENTS_OF_A_FRAME = 64
_SEGMENT_BYTES = 8 * 1024 * 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Drained:
    """How it went."""

    events: int
    seconds: float
    began_mib: float  # of memory
    grown_mib: float  # the most that memory was above what it was at the beginning


def leave(folder: Path, mib: int) -> int:
    """Leave a dead process' spool of that size, and say how many events are in it."""
    name = f"{int(time.time() * 1000):012x}-AAAAAAAAAAAAAAAA"
    (folder / name).mkdir(parents=True)
    epoch = Epoch(folder / name, folder / "quarantine")
    for frame in _frames(name):
        epoch.append([frame], _SEGMENT_BYTES)
        if epoch.bytes_on_disk >= mib * _MIB:
            epoch.let_go()
            return frame.next_seq
    raise AssertionError


def _frames(epoch: str) -> Iterator[Frame]:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
    head = (
        '{"event_id":"018f0000-0000-7000-8000-%012x","code":"abcdefgh","accessed_at":"2026-11-23T10:00:00.123456Z",'
        f'"user_agent":"{agent}","ip_address":"192.0.2.0","referer":null,"visitor":"9f2c9f2c9f2c9f2c9f2c9f2c",'
        f'"epoch":"{epoch}","seq":%d}}'
    )
    seq, now_ms = 0, int(time.time() * 1000)
    while True:
        payload = ",".join([head % (number, number) for number in range(seq, seq + _EVENTS_OF_A_FRAME)])
        yield Frame(seq, _EVENTS_OF_A_FRAME, now_ms, payload.encode())
        seq += _EVENTS_OF_A_FRAME


async def drained(folder: Path, broker: Broker | None, limit_seconds: float) -> Drained:
    """Adopt what lies there and send it; without a broker it is only given out and marked as done."""
    before, began = _resident_mib(), time.monotonic()
    spool = Spool(folder, 1 << 40)
    most, events = before, spool.unsent
    sending = asyncio.create_task(_given_out(spool) if broker is None else _sent(spool, broker))
    try:
        async with asyncio.timeout(limit_seconds):
            while not sending.done() and spool.unsent:
                await asyncio.sleep(0.02)
                most = max(most, _resident_mib())
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        spool.close()
    return Drained(events, time.monotonic() - began, before, most - before)


async def _given_out(spool: Spool) -> None:
    while spool.unsent:
        spool.done(await spool.take())


async def _sent(spool: Spool, broker: Broker) -> None:
    await AmqpPublisher(broker, Topology(), spool).run()


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / _MIB


def _main() -> None:
    mib = int(sys.argv[1])
    folder = Path(tempfile.mkdtemp(prefix="long-spool-"))
    try:
        events = leave(folder, mib)
        with Rabbitmq() as server:
            server.start()
            broker = Broker([(server.host, server.port)], server.user, server.password, server.fresh_vhost())
            done = uvloop.run(drained(folder, broker, 900))
    finally:
        shutil.rmtree(folder)
    used = os.times()
    print(f"{events:,} events ({mib} MiB) in {done.seconds:.1f} s, confirmed")
    print(f"a second: {events / done.seconds:,.0f} events, {mib / done.seconds:.0f} MiB")
    print(f"memory: {done.began_mib:.0f} MiB at the beginning, {done.began_mib + done.grown_mib:.0f} MiB at most")
    print(f"processor: {(used.user + used.system):.0f} s, writing the spool included")


if __name__ == "__main__":
    _main()
