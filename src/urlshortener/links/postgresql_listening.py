"""The connection on which changes of links are told, made again whenever it is lost.

It goes straight to the primary, wherever that is, and proves twice a second that notifications arrive. When it is back
after a loss it asks which links were changed meanwhile, so that nobody has to doubt the others.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from typing import TypeVar

from urlshortener.links.postgresql_connector import (
    DRIVER_ERRORS,
    Connector,
    Driver,
    NoServer,
    Role,
    Servers,
    statement_within,
)
from urlshortener.links.store import ChangeListener

T = TypeVar("T")

CHANNEL = "link_changed"
HEARTBEAT_SECONDS = 0.5
HEARTBEAT_LIMIT_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 1.0
# What changed since a loss is asked for by the clock of the database: for the change that began before and was
# committed after, and for two nodes whose clocks differ, of a little longer.
MARGIN_SECONDS = 60.0
MOST_CHANGED = 10_000

_POSITION = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"
CHANGED = "SELECT code FROM links WHERE version > 1 AND touched_at >= now() - $1::interval LIMIT $2"


class Listening:
    """Tells a listener of changes, for as long as there is a primary to hear them from."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._heartbeat: _Heartbeat | None = None

    @property
    def position(self) -> Decimal | None:
        """In the primary's log: of whatever was committed before it, the listener was told. None: nobody listens."""
        return None if self._heartbeat is None else self._heartbeat.position

    async def tell(self, listener: ChangeListener) -> None:
        """Until cancelled; connects again by itself."""
        pause_seconds = 0.05
        lost_at: float | None = None
        while True:
            with suppress(NoServer, *DRIVER_ERRORS):
                async with _listening(self._servers, listener) as heartbeat:
                    listener.connected(None if lost_at is None else await heartbeat.changed_since(lost_at))
                    self._heartbeat = heartbeat
                    pause_seconds = 0.05
                    try:
                        await heartbeat.until_lost()
                    finally:
                        self._heartbeat = None
                        listener.lost()
                        lost_at = time.monotonic()
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


@asynccontextmanager
async def _listening(servers: Servers, listener: ChangeListener) -> AsyncIterator["_Heartbeat"]:
    """A connection of its own, straight to the primary, on which notifications have been seen to arrive."""
    driver = await Connector(servers, Role.PRIMARY, {"statement_timeout": "1s"}).connect()
    try:
        heartbeat = _Heartbeat(driver)
        driver.add_termination_listener(heartbeat.ended)
        await statement_within(driver, driver.add_listener(CHANNEL, lambda *told: listener.changed(str(told[-1]))), 1)
        await statement_within(driver, driver.add_listener(heartbeat.channel, heartbeat.heard), 1)
        await heartbeat.beat()
        yield heartbeat
    finally:
        driver.terminate()


class _Heartbeat:
    """Proof, twice a second, that what is notified on the primary arrives here: sent and heard as a change is."""

    def __init__(self, driver: Driver) -> None:
        self.channel = f"heartbeat_{secrets.token_hex(8)}"
        self._driver = driver
        self.position = Decimal(0)
        """Of the primary, in its log: whatever was committed before it, listeners have been told of."""
        self._heard = asyncio.Event()
        self._ended = asyncio.Event()

    def heard(self, *_: object) -> None:
        self._heard.set()

    def ended(self, *_: object) -> None:
        self._ended.set()
        self._heard.set()

    async def beat(self) -> None:
        """Return if one notification makes the round in time; else TimeoutError or the driver's error."""
        async with asyncio.timeout(HEARTBEAT_LIMIT_SECONDS):
            self._heard.clear()
            position = await self._within(self._driver.fetchval(_POSITION))
            await self._within(self._driver.execute(f"NOTIFY {self.channel}"))
            await self._heard.wait()
            self.position = position

    async def changed_since(self, at: float) -> Collection[str] | None:
        """The codes of links that were changed since then, on the clock of time.monotonic, and a while before; None if
        they are too many."""
        seconds = time.monotonic() - at + MARGIN_SECONDS
        rows = await self._within(self._driver.fetch(CHANGED, timedelta(seconds=seconds), MOST_CHANGED + 1))
        return {row["code"] for row in rows} if len(rows) <= MOST_CHANGED else None

    async def until_lost(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), HEARTBEAT_SECONDS)
                return
            await self.beat()

    async def _within(self, statement: Awaitable[T]) -> T:
        return await statement_within(self._driver, statement, HEARTBEAT_LIMIT_SECONDS)
