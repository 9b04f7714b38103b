"""`--workers N`: several processes behind one door, for machines with more cores.

The supervisor serves nobody. It owns the listening socket, so that the door stays open whatever becomes of a worker:
who comes while one is replaced is taken by another, or waits in the socket's queue for a moment. It owns the second
port too, where it shows its workers as one service. Each worker is what `urlshortener shortener` is otherwise: its own
cache, its own connections, its own epoch in the spool, which a killed one leaves to the others.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from urlshortener.errors import WrongSetting
from urlshortener.services.http import Readiness
from urlshortener.services.merged import MergedNumbers
from urlshortener.services.worker import LARGEST_REPORT_BYTES, Inherited, Report
from urlshortener.telemetry import LOG, READY, WORKERS, WORKERS_REPLACED

_LONG_LIFE_SECONDS = 10.0  # who lived less died of its start, and would again
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_NOT_STARTED_SECONDS = 1.0
_WRONG_SETTING = 78  # as urlshortener/cli.py exits

_reports = msgspec.json.Decoder(Report)


class Supervisor(Readiness):
    """Starts the workers, replaces those that die, and speaks for them.

    Ready when all of them are for the first time; from then on as long as one is, until it drains.
    """

    def __init__(self, command: str, count: int, door: socket.socket, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.numbers = MergedNumbers([READY, WORKERS, WORKERS_REPLACED])
        self.exit_code = 0
        self._command = command
        self._count = count
        self._door = door
        self._environment = environment
        self._living: dict[int, Process] = {}
        self._reports: dict[int, Report] = {}
        self._all_are_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        WORKERS.set_function(self._ready_workers)

    def dependencies(self) -> dict[str, str]:
        """In one word each: "ok" where it is so for every worker."""
        words: dict[str, str] = {}
        for report in self._reports.values():
            for name, word in report.dependencies.items():
                words[name] = word if words.get(name, "ok") == "ok" else words[name]
        return words

    def draining(self) -> None:
        super().draining()
        self._stopping.set()
        self._signal_all()

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Sequence[asyncio.Task[Any]]]:
        """All workers are ready within. On leaving they are asked to end, and ended where they do not."""
        keepers = [asyncio.create_task(self._keep(number), name=f"worker {number}") for number in range(self._count)]
        ready = asyncio.create_task(self._all_are_ready.wait())
        try:
            await asyncio.wait({ready, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
            yield keepers
        finally:
            ready.cancel()
            self._stopping.set()
            self._signal_all()
            self._door.close()  # theirs are closed or about to be: nobody must wait in a queue that no one serves
            try:
                await asyncio.gather(*keepers, return_exceptions=True)
            finally:
                for process in self._living.values():
                    process.kill()

    def _signal_all(self) -> None:
        for process in self._living.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _keep(self, number: int) -> None:
        """One worker after the other, until we stop."""
        pause_seconds = 0.0
        while not self._stopping.is_set():
            born = asyncio.get_running_loop().time()
            try:
                code = await self._live(number)
            except OSError as error:  # too many processes or files, too little memory: the others go on
                LOG.error("worker_not_started", extra={"worker": number, "reason": str(error)})
                await asyncio.sleep(_NOT_STARTED_SECONDS)
                continue
            lived = asyncio.get_running_loop().time() - born
            if self._stopping.is_set():
                self.exit_code = self.exit_code or (1 if code else 0)
                return
            if code == _WRONG_SETTING:
                raise WrongSetting(f"Worker {number} could not start with these settings; it has said why.")
            WORKERS_REPLACED.inc()
            LOG.error("worker_ended", extra={"worker": number, "exit_code": code, "seconds": round(lived, 1)})
            if lived < _LONG_LIFE_SECONDS:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(max(2 * pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            else:
                pause_seconds = 0.0

    async def _started(self, inherited: Inherited) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "urlshortener", self._command, "--worker", str(inherited)),
            pass_fds=(inherited.door, inherited.line),
            env={**os.environ, **self._environment},
            start_new_session=True,  # a terminal's Ctrl-C comes to us, and from us to them
        )

    async def _live(self, number: int) -> int:
        """From its start to its end; returns its exit code."""
        ours, theirs = socket.socketpair()
        try:
            process = await self._started(Inherited(self._door.fileno(), theirs.fileno()))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._living[number] = process
        listening = asyncio.create_task(self._listen(number, ours))
        try:
            return await process.wait()
        finally:
            if process.returncode is not None:
                del self._living[number]
            await asyncio.wait({listening}, timeout=1)
            listening.cancel()
            self.numbers.gone(number)
            self._reports.pop(number, None)
            self._judge()

    async def _listen(self, number: int, line: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=line, limit=LARGEST_REPORT_BYTES)
        try:
            while text := await reader.readline():
                report = _reports.decode(text)
                self._reports[number] = report
                self.numbers.came(number, report.numbers)
                self._judge()
        except (OSError, ValueError):  # a line that is torn, when its worker was killed
            return
        finally:
            writer.close()

    def _ready_workers(self) -> int:
        return sum(report.is_ready for report in self._reports.values())

    def _judge(self) -> None:
        ready = self._ready_workers()
        if ready == self._count:
            self._all_are_ready.set()
        if self._all_are_ready.is_set() and not self._stopping.is_set():
            self.is_ready = ready > 0
