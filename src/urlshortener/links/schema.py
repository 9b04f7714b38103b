"""The tables that links are kept in: the same ones in PostgreSQL and SQLite. migrations/ builds them.

While a rollout is half-way, code of the version before runs on this schema: what is added must have a default, and
what is dropped must have been unused for one version. A code will one day belong to a domain; then `links_code_key`
gives way to a unique index on both.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
    true,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC with its microseconds, aware in Python on every database; SQLite keeps it as text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        return super().result_processor(dialect, coltype) if dialect.name == "sqlite" else None  # they come in UTC


# Byte order: what is unique must not depend on the collation rules of whichever C library a replica runs on.
Bytewise = Text().with_variant(Text(collation="C"), "postgresql")

links = Table(
    "links",
    metadata,
    Column("id", Uuid(), nullable=False),
    Column("code", Bytewise, nullable=False),
    Column("target", Text(), nullable=False),
    Column("owner", Bytewise, nullable=False, server_default=text("''")),
    Column("created_at", UtcTime(), nullable=False),
    Column("updated_at", UtcTime(), nullable=False),
    Column("expires_at", UtcTime(), nullable=True),
    Column("enabled", Boolean(), nullable=False, server_default=true()),
    Column("deleted_at", UtcTime(), nullable=True),
    Column("version", Integer(), nullable=False, server_default=text("1")),
    # When a write last met this row. A repeated draft writes it, so that the answer waits for the standby again; a
    # change, so that whoever missed its notification finds it.
    Column("touched_at", UtcTime(), nullable=False),
    PrimaryKeyConstraint("id", name="links_pkey"),
    UniqueConstraint("code", name="links_code_key"),
)

_NOT_DELETED = links.c.deleted_at.is_(None)
_CHANGED = links.c.version > 1
Index("links_changed", links.c.touched_at, postgresql_where=_CHANGED, sqlite_where=_CHANGED)  # few of them ever are
Index("links_newest", links.c.created_at, links.c.id, postgresql_where=_NOT_DELETED, sqlite_where=_NOT_DELETED)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Bytewise, nullable=False),
    Column("key", Bytewise, nullable=False),
    Column("link_id", Uuid(), nullable=False),
    Column("body_digest", LargeBinary(), nullable=False),
    Column("created_at", UtcTime(), nullable=False),
    Column("expires_at", UtcTime(), nullable=False),
    Column("touched_at", UtcTime(), nullable=False),
    PrimaryKeyConstraint("owner", "key", name="idempotency_keys_pkey"),
    Index("idempotency_keys_expires_at", "expires_at"),  # for whoever sweeps out the old ones
)
