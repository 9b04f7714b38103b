"""Finds the server that is wanted among several hosts, and connects to it, within limits of our own."""

import asyncio
import random
import socket
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError

from urlshortener.telemetry import LOG

T = TypeVar("T")
if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]
else:
    Driver = asyncpg.Connection

CONNECT_SECONDS = 0.8  # for each host

# TimeoutError is an OSError, since Python 3.11 asyncio's too.
DRIVER_ERRORS = (DBAPIError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Role(Enum):
    """Which server a connection is for."""

    PRIMARY = "primary"
    REPLICA_IF_ANY = "replica"


@dataclass(frozen=True, slots=True)
class Servers:
    """Hosts of one database; who is primary among them is found out at each connection."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    database: str


class NoServer(Exception):
    """None of the hosts is reachable in the role that is wanted."""


class Connector:
    """Finds a server in the wanted role among several hosts, and connects to it."""

    def __init__(self, servers: Servers, role: Role, settings: dict[str, str]) -> None:
        self._servers = servers
        self._role = role
        self._settings = {
            "application_name": "urlshortener links",
            "default_transaction_isolation": "read committed",
            **settings,
        }
        self._last_good: tuple[str, int] | None = None
        self._complaints: dict[tuple[str, int], str] = {}

    async def connect(self) -> Driver:
        """A connection to a server in the role, or NoServer; each host may take CONNECT_SECONDS."""
        async with AsyncExitStack() as unwanted:
            spare: Driver | None = None
            for host in self._in_order():
                driver = await self._try(host)
                if driver is None:
                    continue
                if await _is_primary(driver) == (self._role is Role.PRIMARY):
                    self._last_good = host
                    return driver
                unwanted.callback(driver.terminate)
                spare = spare or driver
            if spare is not None and self._role is Role.REPLICA_IF_ANY:
                unwanted.pop_all()
                return spare
        raise NoServer

    def _in_order(self) -> list[tuple[str, int]]:
        hosts = list(self._servers.hosts)
        if self._role is Role.REPLICA_IF_ANY:
            random.shuffle(hosts)
        return sorted(hosts, key=lambda host: host != self._last_good or self._role is not Role.PRIMARY)

    async def _try(self, host: tuple[str, int]) -> Driver | None:
        try:
            driver = await asyncpg.connect(
                host=host[0],
                port=host[1],
                user=self._servers.user,
                password=self._servers.password,
                database=self._servers.database,
                timeout=CONNECT_SECONDS,
                statement_cache_size=0,  # SQLAlchemy has its own
                server_settings=self._settings,
            )
        except DRIVER_ERRORS as error:
            self._complain(host, sqlstate(error) or type(error).__name__)
            return None
        _notice_dead_peers(driver)
        self._complaints.pop(host, None)
        return driver

    def _complain(self, host: tuple[str, int], reason: str) -> None:
        if self._complaints.get(host) != reason:
            self._complaints[host] = reason
            LOG.warning("database_away", extra={"host": host[0], "port": host[1], "reason": reason})


async def _is_primary(driver: Driver) -> bool:
    status = getattr(driver.get_settings(), "in_hot_standby", None)  # told at connection since PostgreSQL 14
    if status is not None:
        return bool(status == "off")
    return not await statement_within(driver, driver.fetchval("SELECT pg_is_in_recovery()"), CONNECT_SECONDS)


def _notice_dead_peers(driver: Driver) -> None:
    """A host that vanishes without a word is noticed within 3 to 5 s, not after a quarter of an hour."""
    transport: asyncio.Transport = driver._transport  # type: ignore[attr-defined]  # asyncpg has no public way to it
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family == socket.AF_UNIX:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000)


async def statement_within(driver: Driver, statement: Awaitable[T], seconds: float) -> T:
    """One statement outside of the pools; too late, or the caller cancelled, terminates the connection."""
    task = asyncio.ensure_future(statement)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            driver.terminate()
            await asyncio.wait({task})
            task.cancelled() or task.exception()  # seen
    return task.result()


def sqlstate(error: BaseException | None) -> str:
    """The server's five letters, wherever they are in the chain of wrappers; or nothing."""
    while error is not None:
        state = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
        if isinstance(state, str):
            return state
        error = error.__cause__
    return ""
