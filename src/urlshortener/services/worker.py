"""One of several processes behind the same door, and the line between it and its supervisor.

The line is a pair of sockets. Once a second the worker says how it is and what it has counted; it never hears anything
but the end of the line, which is the end of its supervisor, and then ends too.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from urlshortener.services.http import Readiness
from urlshortener.services.merged import HandedMetric, handed_over

REPORT_SECONDS = 1.0
LARGEST_REPORT_BYTES = 4 * 1024 * 1024


class Report(msgspec.Struct, frozen=True):
    """How a worker is, and what it has counted so far."""

    is_ready: bool
    dependencies: dict[str, str]
    numbers: list[HandedMetric]


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a supervisor gives to its worker: the socket that visitors come to, and the line."""

    door: int
    line: int

    @classmethod
    def parsed(cls, text: str) -> "Inherited":
        door, line = text.split(",")
        return cls(int(door), int(line))

    def __str__(self) -> str:
        return f"{self.door},{self.line}"


@contextlib.asynccontextmanager
async def reporting(line: int, readiness: Readiness) -> AsyncIterator[None]:
    """Report within; the end of the line asks this process to stop, as a signal does."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=line))
    tasks = [asyncio.create_task(_report(writer, readiness)), asyncio.create_task(_stop_at_its_end(reader))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.write(_line(readiness))
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 1)


async def _report(writer: asyncio.StreamWriter, readiness: Readiness) -> None:
    while True:
        was_ready = readiness.is_ready
        writer.write(_line(readiness))
        await writer.drain()
        for _ in range(20):
            await asyncio.sleep(REPORT_SECONDS / 20)
            if readiness.is_ready is not was_ready:  # that is worth a line at once
                break


def _line(readiness: Readiness) -> bytes:
    return msgspec.json.encode(Report(readiness.is_ready, readiness.dependencies(), handed_over())) + b"\n"


async def _stop_at_its_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
