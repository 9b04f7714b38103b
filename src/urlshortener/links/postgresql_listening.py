"""The connection on which changes of links are told, made again whenever it is lost.

It goes straight to the primary, wherever that is, and proves twice a second that notifications arrive. When it is back
after a loss it asks which links were changed meanwhile, so that nobody has to doubt the others.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, TypeVar

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
# What changed since a loss is asked for by the clock of the database, and of a while before: for the change that began
# earlier and was committed later, for nodes whose clocks differ, for a primary that was replaced and did not know it.
MARGIN = timedelta(minutes=10)
MOST_CHANGED = 2_000

_STATE = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS position, now() AS at"
CHANGED = "SELECT code FROM links WHERE version > 1 AND touched_at >= $1 LIMIT $2"


class Listening:
    """Tells a listener of changes, for as long as there is a primary to hear them from."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._heartbeat: _Heartbeat | None = None

    @property
    def position(self) -> Decimal | None:
        """In the primary's log: of whatever was committed before it, the listener was told. None: nobody listens."""
        return None if self._heartbeat is None else self._heartbeat.last.position

    async def tell(self, listener: ChangeListener) -> None:
        """Until cancelled; connects again by itself."""
        pause_seconds = 0.05
        heard: _Beat | None = None
        while True:
            with suppress(NoServer, *DRIVER_ERRORS):
                async with _listening(self._servers, listener) as heartbeat:
                    before, heard = heard, None  # if they cannot be told, they are asked for once
                    listener.connected(None if before is None else await heartbeat.changed_since(before.at))
                    self._heartbeat = heartbeat
                    pause_seconds = 0.05
                    try:
                        await heartbeat.until_lost()
                    finally:
                        self._heartbeat = None
                        heard = heartbeat.last
                        listener.lost(time.monotonic() - heard.heard_at)
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


class _Beat(NamedTuple):
    """The primary, when a beat that was heard had not been sent yet."""

    position: Decimal  # in its log
    at: datetime  # by its clock
    heard_at: float  # by ours, as time.monotonic has it


class _Heartbeat:
    """Proof, twice a second, that what is notified on the primary arrives here: sent and heard as a change is."""

    def __init__(self, driver: Driver) -> None:
        self.channel = f"heartbeat_{secrets.token_hex(8)}"
        self._driver = driver
        self.last: _Beat  # since the first: what was committed before it, the listener has been told of
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
            began = time.monotonic()
            state = await self._within(self._driver.fetchrow(_STATE))
            assert state is not None
            await self._within(self._driver.execute(f"NOTIFY {self.channel}"))
            await self._heard.wait()
            self.last = _Beat(state["position"], state["at"], began)

    async def changed_since(self, at: datetime) -> Collection[str] | None:
        """The codes of links that were changed since then and a while before; None if they are too many."""
        rows = await self._within(self._driver.fetch(CHANGED, at - MARGIN, MOST_CHANGED + 1))
        return {row["code"] for row in rows} if len(rows) <= MOST_CHANGED else None

    async def until_lost(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), HEARTBEAT_SECONDS)
                return
            await self.beat()

    async def _within(self, statement: Awaitable[T]) -> T:
        return await statement_within(self._driver, statement, HEARTBEAT_LIMIT_SECONDS)
