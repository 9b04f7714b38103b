"""What each command starts, in which order, and how it ends.

shortener   links, spool, publisher          :8080; with --workers several of these, below a supervisor
analytics   source, counts, links to read    :8081
run         both in one process; with in-process:// the source is the spool itself
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urlshortener import __version__
from urlshortener.errors import Unavailable, WrongSetting
from urlshortener.events.channel import EventSource
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links.directory import Directory
from urlshortener.links.store import LinkStore
from urlshortener.services import backends
from urlshortener.services.access_log import Logged
from urlshortener.services.analytics import analytics_app
from urlshortener.services.caller import Proxies
from urlshortener.services.counting import Counting
from urlshortener.services.fast_redirect import FastRedirects
from urlshortener.services.http import Readiness, ops_app
from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.runner import Door, listen, serve
from urlshortener.services.shortener import shortener_app
from urlshortener.services.supervisor import Supervisor
from urlshortener.services.traced import Traced, Tracing
from urlshortener.services.worker import Inherited, reporting
from urlshortener.settings import Settings
from urlshortener.stats.store import StatsStore
from urlshortener.telemetry import LOG, LOOP_DELAY_SECONDS, Sampling, set_up_logs

if TYPE_CHECKING:
    from urlshortener.telemetry.sending_metrics import MetricSender

_ANALYTICS_CACHE_BYTES = 16 * 1024 * 1024  # there links only tell an unknown code from one that nobody followed
_LONGEST_PAUSE_SECONDS = 1.0
_LOOP_WATCH_SECONDS = 0.1
_WORKERS_STOP_LATER = timedelta(seconds=2)


async def migrate(settings: Settings) -> str:
    """Bring the database of links up to date; return what was done, in words."""
    set_up_logs(settings.log_level, readable=sys.stderr.isatty())
    backends.check_addresses("migrate", settings)
    return await backends.migrate_links(settings)


async def supervise(settings: Settings, workers: int) -> int:
    """Be the shortener in several processes until a signal comes; return the exit code."""
    set_up_logs(settings.log_level, readable=sys.stderr.isatty())
    backends.check_addresses("shortener", settings)
    _check_token(settings)
    _visitor_secret("shortener", settings)
    door = listen(settings.host, settings.shortener_port, "SHORTENER_PORT")
    share = {  # what these allow is for the service, whatever it consists of
        "SPOOL_MAX_BYTES": str(settings.spool_max_bytes // workers),
        "CACHE_MAX_BYTES": str(settings.cache_max_bytes // workers),
    }
    supervisor = Supervisor("shortener", workers, door, share)
    ops = listen(settings.host, settings.shortener_ops_port, "SHORTENER_OPS_PORT")
    app = ops_app("shortener-service", supervisor, supervisor.numbers)
    code = await serve(
        [Door(ops, app, stays_open=True)],
        supervisor.up(),
        supervisor,
        drain_delay=settings.drain_delay,
        stop_timeout=(settings.stop_timeout + _WORKERS_STOP_LATER) * 4 / 3,  # the last quarter is for what hangs
    )
    return code or supervisor.exit_code


async def run(command: str, settings: Settings, inherited: Inherited | None = None) -> int:
    """Be that process, or a worker of it, until a signal comes; return its exit code."""
    set_up_logs(settings.log_level, readable=sys.stderr.isatty())
    backends.check_addresses(command, settings)
    _check_token(settings)
    if command == "run":
        await backends.migrate_links(settings)
    async with contextlib.AsyncExitStack() as stack:
        metrics = _telemetry(command, settings, stack) if settings.otel_exporter_otlp_endpoint else None
        process = _Process(settings, metrics, inherited)
        if inherited is not None:
            await stack.enter_async_context(reporting(inherited.line, process.readiness))
        if command in ("run", "shortener"):
            process.add_shortener(_visitor_secret(command, settings))
        if command in ("run", "analytics"):
            process.add_analytics()
        if command == "run":
            _greet(settings, process.doors)
        return await serve(
            process.doors,
            process.up(),
            process.readiness,
            drain_delay=settings.drain_delay,
            stop_timeout=settings.stop_timeout,
        )


class _Process:
    """The parts that a command asked for, and the order in which they come up and end."""

    def __init__(
        self, settings: Settings, metrics: "MetricSender | None" = None, inherited: Inherited | None = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._inherited = inherited
        self._tracing = _tracing(settings)
        self._links: LinkStore = backends.open_links(settings)
        self._directory: Directory | None = None
        self._spool: Spool | None = None
        self._stats: StatsStore | None = None
        self._source: EventSource | None = None
        self._publisher: Any = None
        self.readiness = Readiness()
        self.doors: list[Door] = []

    def add_shortener(self, visitor_secret: str) -> None:
        settings = self._settings
        self._directory = Directory(
            self._links,
            cache_max_bytes=settings.cache_max_bytes,
            warm_links=settings.cache_warm_links,
            stale_max=settings.stale_max,
        )
        self._spool = Spool(settings.spool_dir, settings.spool_max_bytes, strict=settings.spool_mode == "strict")
        if settings.events_url.scheme == "amqp":
            self._publisher = backends.open_publisher(settings, self._spool)
            self.readiness.words["broker"] = lambda: _word(self._publisher.is_connected)
        visitors = Visitors(visitor_secret, settings.keep_full_address)
        app = shortener_app(
            self._directory,
            self._spool,
            visitors,
            self.readiness,
            now=_now,
            public_url=settings.public_url,
            admin_token=settings.admin_token,
            trusted_proxies=settings.trusted_proxies,
            referrer_policy=settings.referrer_policy,
            request_id_header=settings.request_id_header,
        )
        logged = Sampling(settings.access_log)  # one for both ways of a redirect, which are taken by turns
        redirects = FastRedirects(
            self._directory,
            self._spool,
            visitors,
            Proxies(settings.trusted_proxies),
            referrer_policy=settings.referrer_policy,
            request_id_header=settings.request_id_header,
            service_name="shortener-service",
            now=_now,
            is_logged=logged.drawn_early if settings.access_log else None,
            tracing=self._tracing,
        )
        self._open("shortener-service", app, "shortener", logged, redirects.connection)

    def add_analytics(self) -> None:
        settings = self._settings
        if self._directory is None:
            self._directory = Directory(
                self._links,
                cache_max_bytes=_ANALYTICS_CACHE_BYTES,
                warm_links=0,
                stale_max=settings.stale_max,
                forgets_keys=False,
            )
        self._stats = backends.open_stats(settings)
        self._source = source = backends.open_source(settings, self._spool)
        self.readiness.words["events"] = lambda: _word(source.is_connected)
        app = analytics_app(
            self._stats,
            self._directory.follow,
            self.readiness,
            now=_now,
            series_retention=settings.series_retention,
            admin_token=settings.admin_token,
        )
        self._open("analytics-service", app, "analytics", Sampling(settings.access_log))

    def _open(
        self,
        service_name: str,
        app: Any,
        name: str,
        logged: Sampling,
        protocol: Callable[..., LimitedProtocol] = LimitedProtocol,
    ) -> None:
        host = self._settings.host
        if self._settings.access_log:
            app = Logged(app, service_name, logged)
        if self._tracing is not None:
            app = Traced(app, Proxies(self._settings.trusted_proxies), self._tracing)
        if self._inherited is not None:
            door = socket.socket(fileno=self._inherited.door)
            self.doors.append(Door(door, app, protocol, accepts=1))  # who is idle takes the others
            return
        port, ops_port = (getattr(self._settings, f"{name}_{suffix}") for suffix in ("port", "ops_port"))
        door = listen(host, port, f"{name}_port".upper())
        ops_door = listen(host, ops_port, f"{name}_ops_port".upper())
        self.doors.append(Door(door, app, protocol))
        self.doors.append(Door(ops_door, ops_app(service_name, self.readiness), stays_open=True))

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Sequence[asyncio.Task[Any]]]:
        """Everything works within. On leaving: what was answered is handed on, then each part ends."""
        assert self._directory is not None
        directory = self._directory
        self.readiness.words["links"] = lambda: "ok" if directory.is_listening else "unavailable"
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._links.close)
            await directory.start()
            stack.push_async_callback(directory.stop)
            await _answers("links", self._links.ping)
            if self._stats is not None:
                stack.push_async_callback(self._stats.close)
                await _answers("stats", self._stats.ping)
            tasks = self._work()
            if self._spool is not None:
                stack.callback(self._spool.close)
            stack.push_async_callback(_cancelled, tasks)
            yield tasks
            await self._handed_on()

    def _work(self) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(_watch_loop(), name="loop watch")]
        if self._metrics is not None:
            tasks.append(asyncio.create_task(self._metrics.run(), name="metrics"))
        if self._publisher is not None:
            tasks.append(asyncio.create_task(self._publisher.run(), name="publisher"))
        if self._source is not None and self._stats is not None:
            counting = Counting(self._source, self._stats, _now)
            self.readiness.words["stats"] = lambda: _word(counting.has_store)
            tasks.append(asyncio.create_task(counting.run(), name="counting"))
            tasks.append(asyncio.create_task(counting.tidy(), name="tidy"))
            tasks.append(asyncio.create_task(counting.reconcile(), name="reconcile"))
        return tasks

    async def _handed_on(self) -> None:
        """Wait until the spool is empty; the runner's limit ends it, and what is left stays on disk."""
        if self._spool is not None:
            self._spool.end_epoch()
        while self._spool is not None and self._spool.unsent:  # noqa: ASYNC110 (nobody needs to be told but a stop)
            await asyncio.sleep(0.02)


def _telemetry(command: str, settings: Settings, stack: contextlib.AsyncExitStack) -> "MetricSender":
    """Spans and metrics go to the collector from now on, until the stack is left."""
    from urlshortener.telemetry import sending, sending_metrics  # noqa: PLC0415 (nobody else should wait for these)

    name = f"url-shortener-{command}" if command == "run" else f"{command}-service"
    endpoint, resource = settings.otel_exporter_otlp_endpoint, sending.resource(name, __version__)
    stack.callback(sending.send_traces(endpoint, resource))
    metrics = sending_metrics.MetricSender(endpoint, resource)
    stack.callback(metrics.end)
    return metrics


def _tracing(settings: Settings) -> Tracing | None:
    """Which requests are traced, where there is somebody to send spans to."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    return Tracing(Sampling(settings.otel_traces_sampler_arg))


async def _watch_loop() -> None:
    """Measure how late the event loop is, ten times a second. The loop's own clock stands still for a whole turn."""
    while True:
        due = time.perf_counter() + _LOOP_WATCH_SECONDS
        await asyncio.sleep(_LOOP_WATCH_SECONDS)
        LOOP_DELAY_SECONDS.observe(max(0.0, time.perf_counter() - due))


async def _answers(name: str, ping: Callable[[], Awaitable[None]]) -> None:
    """Wait for a back end's first answer: only then is a start successful."""
    pause = 0.1
    while True:
        try:
            return await ping()
        except Unavailable as error:
            LOG.warning("waiting", extra={"back_end": name, "detail": error.detail})
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _word(connected: bool) -> str:
    return "ok" if connected else "unavailable"


def _check_token(settings: Settings) -> None:
    try:
        is_loopback = ip_address(settings.host).is_loopback
    except ValueError:
        is_loopback = settings.host == "localhost"
    if not is_loopback and not settings.admin_token:
        raise WrongSetting(f"ADMIN_TOKEN: is needed to listen on {settings.host}, beyond loopback.")


def _visitor_secret(command: str, settings: Settings) -> str:
    """The setting; or for `run` the one that it made at its first start."""
    if settings.visitor_secret:
        return settings.visitor_secret
    if command != "run":
        raise WrongSetting("VISITOR_SECRET: is needed, the same on every replica: 16 or more random characters.")
    path = settings.data_dir / "visitor-secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as secret:
            secret.write(secrets.token_urlsafe(32))
    made = path.read_text().strip()
    if len(made) < 16:
        raise WrongSetting(f"VISITOR_SECRET: {path} holds no secret; remove it, and another is made.")
    return made


def _greet(settings: Settings, doors: Sequence[Door]) -> None:
    """Where everything is, and two lines to paste."""
    shortener, analytics = (door.url for door in doors if not door.stays_open)
    token = "-H 'X-Api-Key: '\"$ADMIN_TOKEN\" " if settings.admin_token else ""
    create = f"""curl -s {token}{shortener}/api/v1/urls --json '{{"url":"https://example.com/","code":"cat"}}'"""
    print(
        f"url-shortener {__version__}\n"
        f"  short links  {shortener}  (how to: {shortener}/docs)\n"
        f"  counts       {analytics}  (how to: {analytics}/docs)\n"
        f"  data         {Path(settings.data_dir).resolve()}\n"
        f"Paste these to try it; Ctrl-C stops:\n"
        f"  {create}\n"
        f"  curl -i {shortener}/cat; curl -s {analytics}/api/v1/analytics/cat",
        flush=True,
    )
