"""A process from start to exit: its doors, its signals, its last seconds.

uvicorn serves the doors, but does not own the process: it would raise SIGTERM again after a clean stop, and two of its
servers in one loop would overwrite each other's signal handlers. So signals, order and exit code are decided here.

    start       doors open, /ready says no → the service comes up → /ready says yes
    SIGTERM     /ready says no; wait DRAIN_DELAY, so that proxies look elsewhere; close the doors, finish the
                requests; let the service finish (send what it holds); exit 0
    a second    the same without waiting

A stop ends within STOP_TIMEOUT, whatever hangs: half of it is for the requests, the last quarter for cutting short what
did not finish.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import uvicorn

from urlshortener.errors import WrongSetting
from urlshortener.services.http import Readiness
from urlshortener.services.protocol import LimitedProtocol, Sweeper
from urlshortener.telemetry import LOG

_BACKLOG = 2048
_CUTS = 8  # more than there are parts that could hang one after the other
_IDLE_SECONDS = 75  # above the 60 s that nginx keeps an idle upstream connection, so that it is never us who reset it


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, and the ASGI application behind it. `stays_open` until the very end: probes and metrics.

    libuv accepts one connection from a socket in a turn of the loop, and turns are long while many connections are
    busy: new visitors would wait for seconds. So it may be asked for several at a time.
    """

    socket: socket.socket
    app: Any
    protocol: Callable[..., LimitedProtocol] = LimitedProtocol
    stays_open: bool = False
    accepts: int = 16  # connections in a turn of the loop

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens from now on; WrongSetting if it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except socket.gaierror:
        raise WrongSetting(f"HOST: {host} is no address of this machine.") from None
    except OSError as error:
        raise WrongSetting(f"{setting}: cannot listen on {host} port {port} ({error.strerror or error}).") from None


class _Server(uvicorn.Server):
    """uvicorn without its hands on the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.on_tick(0)  # so that the first answers have a date too
        await super().startup(sockets)


def _server(door: Door) -> _Server:
    config = uvicorn.Config(
        door.app,
        interface="asgi3",
        http=functools.partial(door.protocol, sweeper=Sweeper()),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is a setting of ours
        timeout_keep_alive=_IDLE_SECONDS,
        backlog=_BACKLOG,
    )
    return _Server(config)


class _Signals:
    """What the outside asks of the process: `once` set by the first SIGTERM or SIGINT, `twice` by the second."""

    def __init__(self) -> None:
        self.once = asyncio.Event()
        self.twice = asyncio.Event()

    def came(self) -> None:
        (self.twice if self.once.is_set() else self.once).set()


@contextlib.asynccontextmanager
async def _served(doors: Sequence[Door]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The doors are open within; on leaving, requests under way are finished (bounded by whoever cancels this). Then no
    connection is left, not even one that came while the others were told to end: what it asks for nobody would keep."""
    servers = [_server(door) for door in doors]
    tasks = [
        asyncio.create_task(server.serve(sockets=_sockets(door))) for server, door in zip(servers, doors, strict=True)
    ]
    try:
        yield tasks
    finally:
        for server in servers:
            server.should_exit = True
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for server in servers:
                for connection in list(server.server_state.connections):
                    connection.transport.abort()


def _sockets(door: Door) -> list[socket.socket]:
    """The door's own, as often as it may accept."""
    return [door.socket, *(door.socket.dup() for _ in range(door.accepts - 1))]


async def serve(
    doors: Sequence[Door],
    service: AbstractAsyncContextManager[Sequence[asyncio.Task[Any]]],
    readiness: Readiness,
    *,
    drain_delay: timedelta,
    stop_timeout: timedelta,
) -> int:
    """Run until a signal; return the process' exit code.

    Entering `service` brings it up, and gives the tasks whose end would be a defect; leaving it finishes its work.
    """
    signals = _Signals()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.came)
    staying = [door for door in doors if door.stays_open]
    closing = [door for door in doors if not door.stays_open]
    up = contextlib.AsyncExitStack()
    code = 0
    async with _served(staying):
        served = _served(closing)
        tasks = await served.__aenter__()
        try:
            entered = await _or_signal(up.enter_async_context(service), signals, stop_timeout)
            if entered is not None:
                _spare_the_collector()
                readiness.ready()
                LOG.info("ready", extra={"doors": [door.url for door in doors]})
                code = await _until_asked(signals, [*tasks, *entered])
                await _drained(readiness, signals, drain_delay)
        finally:
            ends_at = loop.time() + stop_timeout.total_seconds()
            closed = asyncio.create_task(served.__aexit__(None, None, None))
            await _ended(closed, ends_at - stop_timeout.total_seconds() / 2, ends_at)
            await _ended(asyncio.create_task(up.aclose()), ends_at - stop_timeout.total_seconds() / 4, ends_at)
    LOG.info("stopped", extra={"exit_code": code})
    return code


def _spare_the_collector() -> None:
    """What is there now stays until the end. To look through it, a hundred thousand objects, would stop the loop for
    tens of milliseconds every time."""
    gc.collect()
    gc.freeze()


async def _drained(readiness: Readiness, signals: _Signals, delay: timedelta) -> None:
    """Everything goes on as before, except that the service says it is not ready. Who never was need not say so."""
    readiness.draining()
    LOG.info("draining", extra={"delay_seconds": delay.total_seconds()})
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(signals.twice.wait(), delay.total_seconds())


async def _ended(task: asyncio.Task[Any], cut_at: float, ends_at: float) -> None:
    """Let it end. From `cut_at` on it is cancelled, again and again: each time one part of it that hangs gives way."""
    loop = asyncio.get_running_loop()
    pause = (ends_at - cut_at) / _CUTS
    await asyncio.wait({task}, timeout=max(0.0, cut_at - loop.time()))
    if not task.done():
        LOG.warning("stop_cut_short")
    while not task.done() and loop.time() < ends_at:
        task.cancel()
        await asyncio.wait({task}, timeout=pause)
    if task.done() and not task.cancelled() and (error := task.exception()):
        LOG.error("stop_failed", exc_info=error)


async def _or_signal(coming: Coroutine[Any, Any, Any], signals: _Signals, stop_timeout: timedelta) -> Any:
    """What comes, or None if a signal came first."""
    task = asyncio.create_task(coming)
    asked = asyncio.create_task(signals.once.wait())
    try:
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        now, seconds = asyncio.get_running_loop().time(), stop_timeout.total_seconds()
        await _ended(task, now + seconds / 4, now + seconds / 2)
        return None
    finally:
        asked.cancel()


async def _until_asked(signals: _Signals, tasks: Sequence[asyncio.Task[Any]]) -> int:
    asked = asyncio.create_task(signals.once.wait())
    try:
        ended, _ = await asyncio.wait({asked, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    if asked in ended:
        return 0
    for task in ended:
        LOG.error("task_ended", exc_info=task.exception(), extra={"task": task.get_name()})
    return 1
