"""What does it cost to keep an event, beside the one write that keeps it?

No network: turns of the event loop are filled by hand, as the redirect path fills them. What a turn takes is told in
three parts: the events are made, as they are to be in any case; they are numbered, framed and given their checksum;
and they are written. The write alone is measured beside, of the same bytes into a file of the same folder.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.harness import cores, traffic
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.system import events_in_spool
from urlshortener.events.event import Plain, encode_plain
from urlshortener.events.spool import Spool

TITLE = "An event in the spool, beside the write alone"
WHAT_LIMITS = (
    "of what the spool does besides the write a fifth joins the events and a third puts them into a frame with its "
    "checksum; the rest is for the turn: its future, its numbers, its metrics."
)

_TURNS = 3_000
_VISITORS = 64  # of a turn
_IDS = "0" * 24


def ask(run: Run) -> None:
    run.ran("the spool, called directly", cores.SERVICE)
    turns = run.so_many(_TURNS)
    with tempfile.TemporaryDirectory(prefix="urlshortener-bench-") as folder, cores.on(cores.SERVICE):
        rounds = [asyncio.run(_measured(Path(folder), number, turns)) for number in run.rounds()]
        made, kept, written = zip(*rounds, strict=True)
        spooled = events_in_spool(Path(folder) / "spool")
    run.figure(f"an event, {_VISITORS} in a turn: made", "µs", made)
    run.figure("written", "µs", written)
    own = [whole - alone for whole, alone in zip(kept, written, strict=True)]
    no_more = Goal(1.0, 0.5, less_is_better=True)
    run.figure("kept, besides", "µs", own, beside=written, beside_name="the write", goal=no_more)
    expected = turns * _VISITORS * len(rounds)
    run.check(f"{expected:,} events, {spooled:,} in the spool", holds=expected == spooled)


async def _measured(folder: Path, number: int, turns: int) -> tuple[float, float, float]:
    """Microseconds for each event: made, kept besides, written alone; by turns, so that all three have one machine."""
    spool = Spool(folder / "spool", max_bytes=1 << 40)
    accesses = _accesses()
    making = keeping = writing = 0
    with (folder / f"written-{number}").open("ab", buffering=0) as alone:
        for _ in range(turns):
            at = datetime.now(UTC)
            began = time.perf_counter_ns()
            events = encode_plain(spool.epoch, 0, _IDS, at, accesses)
            made = time.perf_counter_ns()
            await spool.append_plain(at, accesses)
            kept = time.perf_counter_ns()
            body = b",".join(events)
            before_write = time.perf_counter_ns()
            os.write(alone.fileno(), body)
            making += made - began
            keeping += kept - made
            writing += time.perf_counter_ns() - before_write
    spool.close()
    making_for_each, keeping_for_each, writing_for_each = (
        nanoseconds / 1000 / turns / _VISITORS for nanoseconds in (making, keeping, writing)
    )
    return making_for_each, keeping_for_each - making_for_each, writing_for_each


def _accesses() -> Sequence[Plain]:
    agent = b'"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"'
    referer, visitor = b'"https://news.example/item"', b"0123456789abcdef01234567"
    return [
        (traffic.code_of(number).encode(), agent, b'"203.0.113.0"', referer, visitor, b"")
        for number in range(1, _VISITORS + 1)
    ]
