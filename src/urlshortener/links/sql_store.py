"""Links in a SQL database: one store for PostgreSQL and SQLite, which differ only in their `Database`."""

import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Table, case, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from urlshortener.errors import CodeTaken, Gone, InvalidUrl, KeyReused, NotToCome, Refused
from urlshortener.links import code as codes_of_links
from urlshortener.links.code import could_be_a_link
from urlshortener.links.link import UNCHANGED, Change, Draft, Link
from urlshortener.links.schema import idempotency_keys, links
from urlshortener.links.store import ChangeListener, Found, PageMark
from urlshortener.links.target import is_safe_location
from urlshortener.telemetry import LOG

T = TypeVar("T")
AnyRow = Row[*tuple[Any, ...]]

KEY_LIFETIME = timedelta(days=30)
MOST_DRAWS = 8  # a code drawn eight times and taken each time is no accident


class RowRefused(Exception):
    """The database understood, and will not keep one of these rows. Nothing of the transaction was kept."""


class Database(Protocol):
    """Connections to one kind of database, and all in which the kinds differ.

    `write` and `read` give the work a connection, and raise only StoreUnavailable, OutcomeUnknown, RowRefused, and
    what the work raises by itself. The work may be run again from its beginning; its last run counts.
    """

    nearby_is_primary: bool

    def insert(self, table: Table, columns: Sequence[str]) -> postgresql.Insert | sqlite.Insert:
        """An insert of rows with these columns, as many as `rows` hands over with it."""
        ...

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
        """The parameters of such an insert."""
        ...

    def among(self, column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]: ...

    async def find(self, connection: AsyncConnection, codes: Collection[str]) -> Iterable[Link]:
        """The links with these codes, whatever their targets. Visitors wait for it."""
        ...

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """One transaction on the primary, durable when this returns."""
        ...

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """One statement, seen by the primary."""
        ...

    async def read_nearby(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """A few statements that only read, each for itself; on a replica where there is one."""
        ...

    async def is_current(self, connection: AsyncConnection) -> bool:
        """Whether all that is read on this connection from now on has every change that listeners have been told of."""
        ...

    async def announce(self, connection: AsyncConnection, code: str) -> None:
        """Tell every listener that this link has changed, if and when the transaction is committed."""
        ...

    async def listen(self, listener: ChangeListener) -> None: ...

    async def close(self) -> None: ...


_COLUMNS = (
    links.c.id,
    links.c.code,
    links.c.target,
    links.c.created_at,
    links.c.updated_at,
    links.c.expires_at,
    links.c.enabled,
    links.c.deleted_at,
    links.c.version,
)
_IS_KEPT = links.c.deleted_at.is_(None)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SqlLinkStore:
    """The LinkStore over a Database. How a batch of drafts is kept is told at `add_many`."""

    def __init__(
        self,
        database: Database,
        *,
        draw: Callable[[], str] = codes_of_links.draw,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._database = database
        self._draw = draw
        self._now = now
        self._claim_keys = _claiming_keys(database)
        self._keep_links = _keeping_links(database)

    async def add_many(self, drafts: Sequence[Draft]) -> list[Link | Refused]:
        """As LinkStore promises.

        The batch is kept in rounds of one transaction. A round holds no two drafts of one key, code or id: twins wait
        for the next, and meet what the first left, as if they had come one after the other. A round claims its
        keys, keeps its links under the keys that are its own, and lets go of the keys of those whose code was taken,
        or whose time was over before they were asked for.

        Every statement writes, also where a retry finds its own row: only a commit record behind the first one's makes
        the standby's answer cover both. Rows are sorted, so that two replicas rarely wait for each other in a circle.
        """
        if not drafts:
            return []
        try:
            return await self._database.write(lambda connection: self._add_in_rounds(connection, drafts))
        except RowRefused:
            if len(drafts) == 1:
                return [Refused("The database does not take this link as it stands.")]
        LOG.warning("links_refused_together", extra={"links": len(drafts)})
        return [answer for draft in drafts for answer in await self.add_many([draft])]

    async def _add_in_rounds(self, connection: AsyncConnection, drafts: Sequence[Draft]) -> list[Link | Refused]:
        answers: dict[int, Link | Refused] = {}
        waiting = dict(enumerate(drafts))
        for position, draft in enumerate(drafts):
            if not is_safe_location(draft.target):
                answers[position] = InvalidUrl("The address is not one that a browser would send.")
                del waiting[position]
        draws: Counter[int] = Counter()
        while waiting:
            this_round = _first_of_twins(waiting)
            answered = await self._add_round(connection, list(this_round.values()))
            for position, draft in this_round.items():
                answer = answered[draft.id]
                draws[position] += 1
                if isinstance(answer, CodeTaken) and not draft.code_was_chosen and draws[position] < MOST_DRAWS:
                    waiting[position] = dataclasses.replace(draft, code=self._draw())
                else:
                    answers[position] = answer
                    del waiting[position]
        return [answers[position] for position in range(len(drafts))]

    async def _add_round(self, connection: AsyncConnection, drafts: Sequence[Draft]) -> dict[UUID, Link | Refused]:
        answers = await self._replay(connection, drafts)
        new = [draft for draft in drafts if draft.id not in answers]
        kept = await self._keep(connection, [draft for draft in new if not draft.is_over])
        failed = [draft for draft in new if draft.id not in kept]
        await self._let_go_of_keys(connection, failed)
        refused = {draft.id: NotToCome() if draft.is_over else CodeTaken(draft.code) for draft in failed}
        return answers | kept | refused

    async def _replay(self, connection: AsyncConnection, drafts: Iterable[Draft]) -> dict[UUID, Link | Refused]:
        """Claim the drafts' keys; answers for those whose key belongs to another link already."""
        by_key = {(draft.owner, draft.key): draft for draft in drafts if draft.key is not None}
        if not by_key:
            return {}
        rows = self._database.rows(_KEY_COLUMNS, [self._key_row(by_key[key]) for key in sorted(by_key)])
        claimed = (await connection.execute(self._claim_keys, rows)).all()
        of_others = {by_key[row.owner, row.key]: row for row in claimed if row.link_id != by_key[row.owner, row.key].id}
        if not of_others:
            return {}
        made = self._database.among(links.c.id, {row.link_id for row in of_others.values()})
        found = {link.id: link for link in _safe(await links_where(connection, made))}
        answers: dict[UUID, Link | Refused] = {}
        for draft, row in of_others.items():
            if row.body_digest != draft.body_digest:
                answers[draft.id] = KeyReused()
            else:
                answers[draft.id] = found.get(row.link_id) or Gone("The link that this key made is no more.")
        return answers

    async def _keep(self, connection: AsyncConnection, drafts: Sequence[Draft]) -> dict[UUID, Link | Refused]:
        """Keep the drafts whose code is free, or whose row is there already; the others are left out.

        A draft that is repeated after its code was drawn again has its row under another code. Its first code is
        taken for ever, so it is refused as taken first, and only then looked for by its id.
        """
        if not drafts:
            return {}
        touched_at = self._now()
        rows = [_link_row(draft, touched_at) for draft in sorted(drafts, key=lambda draft: draft.code)]
        statement = self._keep_links, self._database.rows(_LINK_COLUMNS, rows)
        kept = {row.id: _link(row) for row in (await connection.execute(*statement)).all()}
        missing = [draft.id for draft in drafts if draft.id not in kept]
        if missing:
            touch = (
                update(links)
                .where(self._database.among(links.c.id, missing))
                .values(touched_at=_later(links.c.touched_at, self._now()))
            )
            again = (await connection.execute(touch.returning(*_COLUMNS))).all()
            kept |= {row.id: _link(row) for row in again}
        return dict(kept)

    async def _let_go_of_keys(self, connection: AsyncConnection, drafts: Iterable[Draft]) -> None:
        keys = sorted((draft.owner, draft.key) for draft in drafts if draft.key is not None)
        if keys:
            key = tuple_(idempotency_keys.c.owner, idempotency_keys.c.key)
            await connection.execute(delete(idempotency_keys).where(key.in_(keys)))

    def _key_row(self, draft: Draft) -> tuple[Any, ...]:
        """In the order of _KEY_COLUMNS."""
        made, over = draft.created_at, draft.created_at + KEY_LIFETIME
        return draft.owner, draft.key, draft.id, draft.body_digest, made, over, self._now()

    @property
    def has_replica(self) -> bool:
        return not self._database.nearby_is_primary

    async def find_many(self, codes: Collection[str]) -> Mapping[str, Link]:
        possible = _possible(codes)
        if not possible:
            return {}
        found = await self._database.read(lambda connection: self._database.find(connection, possible))
        return {link.code: link for link in _safe(found)}

    async def find_many_on_replica(self, codes: Collection[str]) -> Mapping[str, Found]:
        possible = _possible(codes)
        if not possible:
            return {}

        async def work(connection: AsyncConnection) -> tuple[bool, Iterable[Link]]:
            return await self._database.is_current(connection), await self._database.find(connection, possible)

        is_current, found = await self._database.read_nearby(work)
        return {link.code: Found(link, is_current) for link in _safe(found)}

    async def change(self, code: str, change: Change, now: datetime) -> Link | None:
        values = {
            field.name: value
            for field in dataclasses.fields(change)
            if (value := getattr(change, field.name)) is not UNCHANGED
        }
        if "target" in values and not is_safe_location(values["target"]):
            raise InvalidUrl("The address is not one that a browser would send.")
        return await self._change(code, values, now)

    async def delete(self, code: str, now: datetime) -> bool:
        return await self._change(code, {"deleted_at": now}, now) is not None

    async def _change(self, code: str, values: dict[str, Any], now: datetime) -> Link | None:
        if not could_be_a_link(code):
            return None
        statement = (
            update(links)
            .where(links.c.code == code, _IS_KEPT)
            .values(
                **values,
                version=links.c.version + 1,
                updated_at=_later(links.c.updated_at, now),
                touched_at=func.now(),  # on the one clock that all share: by it, who missed the change asks for it
            )
            .returning(*_COLUMNS)
        )

        async def work(connection: AsyncConnection) -> Sequence[AnyRow]:
            rows = await _all(connection, statement)
            if rows:
                await self._database.announce(connection, code)
            return rows

        try:
            return next(iter(_safe(map(_link, await self._database.write(work)))), None)
        except RowRefused:
            raise Refused("The database does not take this change as it stands.") from None

    async def page(self, limit: int, after: PageMark | None = None) -> list[Link]:
        found: list[Link] = []
        while (wanted := limit - len(found)) > 0:  # again, where a row was left out: a short page would be the last
            rows = await self._rows(wanted, after)
            found += _safe(map(_link, rows))
            if len(rows) < wanted:
                break
            after = PageMark(rows[-1].created_at, rows[-1].id)
        return found

    async def _rows(self, limit: int, after: PageMark | None) -> Sequence[AnyRow]:
        place = tuple_(links.c.created_at, links.c.id)
        statement = select(*_COLUMNS).where(_IS_KEPT).limit(limit)
        statement = statement.order_by(links.c.created_at.desc(), links.c.id.desc())
        if after is not None:
            statement = statement.where(place < tuple_(after.created_at, after.id))
        return await self._database.read(lambda connection: _all(connection, statement))

    async def forget_old_keys(self, over_before: datetime, limit: int) -> int:
        keys = idempotency_keys.c
        # locked before they go, so that one that changes hands meanwhile is not among them
        old = select(keys.owner, keys.key).where(keys.expires_at <= over_before).order_by(keys.expires_at).limit(limit)
        chosen = old.with_for_update(skip_locked=True).cte("old")
        are_old = tuple_(keys.owner, keys.key).in_(select(chosen.c.owner, chosen.c.key))
        # they come back, for SQLite's driver does not count them
        statement = delete(idempotency_keys).where(are_old).returning(keys.owner, keys.key)
        return len(await self._database.write(lambda connection: _all(connection, statement)))

    async def listen(self, listener: ChangeListener) -> None:
        await self._database.listen(listener)

    async def ping(self) -> None:
        await self._database.read(lambda connection: _all(connection, select(1)))

    async def close(self) -> None:
        await self._database.close()


# What is written of a new row; the rest has its defaults.
_LINK_COLUMNS = ("id", "code", "target", "owner", "created_at", "updated_at", "expires_at", "touched_at")
_KEY_COLUMNS = ("owner", "key", "link_id", "body_digest", "created_at", "expires_at", "touched_at")


def _link_row(draft: Draft, touched_at: datetime) -> tuple[Any, ...]:
    """In the order of _LINK_COLUMNS."""
    made = draft.created_at
    return draft.id, draft.code, draft.target, draft.owner, made, made, draft.expires_at, touched_at


def _first_of_twins(waiting: Mapping[int, Draft]) -> dict[int, Draft]:
    """Those before which no other draft waits with the same id, code or key."""
    seen: set[object] = set()
    first = {}
    for position, draft in waiting.items():
        marks: set[object] = {draft.id, draft.code}
        if draft.key is not None:
            marks.add((draft.owner, draft.key))
        if seen.isdisjoint(marks):
            first[position] = draft
        seen |= marks
    return first


def _later(before: ColumnElement[datetime], now: Any) -> ColumnElement[datetime]:
    """Never backwards, whatever the clocks of two replicas say."""
    return case((before > now, before), else_=now)


def _claiming_keys(database: Database) -> postgresql.Insert | sqlite.Insert:
    """A key that is taken stays with its link, and is written all the same; one that is past its time changes hands."""
    statement = database.insert(idempotency_keys, _KEY_COLUMNS)
    new = statement.excluded
    is_over = idempotency_keys.c.expires_at <= new.created_at
    changing_hands = {
        name: case((is_over, new[name]), else_=idempotency_keys.c[name])
        for name in ("link_id", "body_digest", "created_at", "expires_at")
    }
    upsert = statement.on_conflict_do_update(
        index_elements=["owner", "key"], set_={"touched_at": new.touched_at, **changing_hands}
    )
    keys = idempotency_keys.c
    return upsert.returning(keys.owner, keys.key, keys.link_id, keys.body_digest)  # type: ignore[return-value]


def _keeping_links(database: Database) -> postgresql.Insert | sqlite.Insert:
    """A code that is taken by this very id is written again and comes back; one that is another's does not."""
    statement = database.insert(links, _LINK_COLUMNS)
    upsert = statement.on_conflict_do_update(
        index_elements=["code"],
        set_={"touched_at": _later(links.c.touched_at, statement.excluded.touched_at)},
        where=links.c.id == statement.excluded.id,
    )
    return upsert.returning(*_COLUMNS)  # type: ignore[return-value]


async def _all(connection: AsyncConnection, statement: Any) -> Sequence[AnyRow]:
    return (await connection.execute(statement)).all()


def _link(row: AnyRow) -> Link:
    return Link(*row)


async def links_where(connection: AsyncConnection, condition: ColumnElement[bool]) -> Iterable[Link]:
    """All links for which this holds."""
    return map(_link, await _all(connection, select(*_COLUMNS).where(condition)))


def _possible(codes: Iterable[str]) -> list[str]:
    return [code for code in codes if could_be_a_link(code)]


def _safe(found: Iterable[Link]) -> list[Link]:
    """These links; one that predates our rules, or came by another way, is left out and logged."""
    safe = []
    for link in found:
        if is_safe_location(link.target):
            safe.append(link)
        else:
            LOG.error("link_not_safe", extra={"link": link.id})
    return safe
