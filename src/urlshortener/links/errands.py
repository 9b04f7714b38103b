"""Work on a database that goes on to its end, whoever stops waiting for it.

A cancelled asyncpg statement asks the server to cancel, and a commit that waits for its standby then reports success
without it. So no request may cancel a statement: callers wait for errands, and an errand has its own limit.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from urlshortener.errors import UrlShortenerError

T = TypeVar("T")


class Errands:
    """The work under way for one store."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T], *, within_seconds: float, late: UrlShortenerError) -> T:
        """What the work gives, or raise `late` while it goes on. Cancelling the caller leaves the work alone."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=within_seconds)
        if not done:
            raise late
        return task.result()

    async def settle(self, within_seconds: float) -> None:
        """Wait for what is still under way, for so long at most."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=within_seconds)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody may be waiting for it any more
