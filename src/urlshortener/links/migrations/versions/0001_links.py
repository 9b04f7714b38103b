"""Links, and the idempotency keys they were made with."""

import sqlalchemy as sa
from alembic import op

from urlshortener.links.schema import Bytewise, UtcTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "links",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("code", Bytewise, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("owner", Bytewise, nullable=False, server_default=sa.text("''")),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("deleted_at", UtcTime(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("touched_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="links_pkey"),
        sa.UniqueConstraint("code", name="links_code_key"),
    )
    op.create_index(
        "links_newest",
        "links",
        ["created_at", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
        sqlite_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", Bytewise, nullable=False),
        sa.Column("key", Bytewise, nullable=False),
        sa.Column("link_id", sa.Uuid(), nullable=False),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.Column("touched_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="idempotency_keys_pkey"),
    )
    op.create_index("idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
