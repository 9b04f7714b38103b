"""A LinkStore in memory that does as it is told: holds answers back, fails, has a replica that is behind."""

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from urlshortener.errors import CodeTaken, Refused
from urlshortener.links.link import UNCHANGED, Change, Draft, Link
from urlshortener.links.store import ChangeListener, Found, PageMark

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_link(code: str, target: str = "https://example.org/", version: int = 1) -> Link:
    return Link(uuid4(), code, target, NOON, NOON, version=version)


def a_draft(code: str, key: str | None = None) -> Draft:
    return Draft(uuid4(), code, f"https://example.org/{code}", NOON, key=key)


class ScriptedStore:
    """`calls` lists what was asked. `failing[name]` is raised by that method; `held[name]` holds its answers back.

    An answer is made before it is held: what changes meanwhile is not in it, as with a real database.
    """

    has_replica = True

    def __init__(self, *links: Link) -> None:
        self.primary = {link.code: link for link in links}
        self.replica: dict[str, Link] | None = None
        self.calls: list[tuple[str, frozenset[str]]] = []
        self.failing: dict[str, Exception] = {}
        self.failing_after_doing: dict[str, list[Exception]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.poisoned: set[str] = set()
        self.replica_is_behind = False
        self.old_keys = 0
        self.swept_before: list[datetime] = []
        self.busy = 0
        self.most_busy = 0
        self.listener: ChangeListener | None = None
        self._listened = asyncio.Event()
        self._listening: asyncio.Future[None] | None = None

    def called(self, name: str) -> list[frozenset[str]]:
        return [codes for called, codes in self.calls if called == name]

    def hold(self, *names: str) -> asyncio.Event:
        """Hold back the answers of these methods until the event that is returned is set."""
        let_go = asyncio.Event()
        self.held.update(dict.fromkeys(names, let_go))
        return let_go

    def fail(self, error: Exception, *names: str) -> None:
        self.failing.update(dict.fromkeys(names, error))

    def recover(self) -> None:
        self.failing.clear()
        for let_go in self.held.values():
            let_go.set()
        self.held.clear()

    async def _called(self, name: str, codes: Collection[str] = ()) -> None:
        self.calls.append((name, frozenset(codes)))
        if name in self.failing:
            raise self.failing[name]

    async def _answered(self, name: str) -> None:
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            if name in self.held:
                await self.held[name].wait()
        finally:
            self.busy -= 1
        if self.failing_after_doing.get(name):
            raise self.failing_after_doing[name].pop(0)

    async def add_many(self, drafts: Sequence[Draft]) -> list[Link | Refused]:
        await self._called("add_many", [draft.code for draft in drafts])
        if self.poisoned & {draft.code for draft in drafts}:
            raise RuntimeError("nobody foresaw this")
        answers = [self._add(draft) for draft in drafts]
        await self._answered("add_many")
        return answers

    def _add(self, draft: Draft) -> Link | Refused:
        held = self.primary.get(draft.code)
        if held is not None and held.id != draft.id:
            return CodeTaken(draft.code)
        link = Link(draft.id, draft.code, draft.target, draft.created_at, draft.created_at)
        return self.primary.setdefault(draft.code, link)

    async def find_many(self, codes: Collection[str]) -> Mapping[str, Link]:
        await self._called("find_many", codes)
        found = {code: self.primary[code] for code in codes if code in self.primary}
        await self._answered("find_many")
        return found

    async def find_many_on_replica(self, codes: Collection[str]) -> Mapping[str, Found]:
        await self._called("find_many_on_replica", codes)
        place = self.primary if self.replica is None else self.replica
        found = {code: Found(place[code], not self.replica_is_behind) for code in codes if code in place}
        await self._answered("find_many_on_replica")
        return found

    async def change(self, code: str, change: Change, now: datetime) -> Link | None:
        await self._called("change", [code])
        link = self.primary.get(code)
        if link is not None and not link.is_deleted:
            values = {name: value for name in Change.__slots__ if (value := getattr(change, name)) is not UNCHANGED}
            link = self.primary[code] = dataclasses.replace(link, **values, updated_at=now, version=link.version + 1)
        await self._answered("change")
        return link

    async def delete(self, code: str, now: datetime) -> bool:
        await self._called("delete", [code])
        link = self.primary.get(code)
        is_there = link is not None and not link.is_deleted
        if link is not None and is_there:
            self.primary[code] = dataclasses.replace(link, deleted_at=now, version=link.version + 1)
        await self._answered("delete")
        return is_there

    async def page(self, limit: int, after: PageMark | None = None) -> list[Link]:
        await self._called("page")
        links = sorted(self.primary.values(), key=lambda link: (link.created_at, link.id), reverse=True)
        rest = [link for link in links if after is None or (link.created_at, link.id) < (after.created_at, after.id)]
        await self._answered("page")
        return [link for link in rest if not link.is_deleted][:limit]

    async def forget_old_keys(self, over_before: datetime, limit: int) -> int:
        await self._called("forget_old_keys")
        self.swept_before.append(over_before)
        forgotten = min(limit, self.old_keys)
        self.old_keys -= forgotten
        return forgotten

    async def listen(self, listener: ChangeListener) -> None:
        self.listener = listener
        self._listened.set()
        self._listening = asyncio.get_running_loop().create_future()
        await self._listening

    def break_listening(self) -> None:
        """Let `listen` end in a way nobody foresaw."""
        assert self._listening is not None
        self._listened.clear()
        self._listening.set_exception(RuntimeError("nobody foresaw this"))

    async def ping(self) -> None:
        await self._called("ping")

    async def close(self) -> None:
        pass

    async def heard(self) -> ChangeListener:
        """The one who listens."""
        async with asyncio.timeout(2):
            await self._listened.wait()
        assert self.listener is not None
        return self.listener


class HandClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, by: timedelta | float) -> None:
        self.now += by.total_seconds() if isinstance(by, timedelta) else by


async def until(condition: Callable[[], bool], within_seconds: float = 2.0) -> None:
    """Return as soon as the condition holds; TimeoutError if it never does."""
    async with asyncio.timeout(within_seconds):
        while not condition():
            await asyncio.sleep(0.001)
