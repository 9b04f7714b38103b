"""An index of the links that were ever changed, so that who missed a notification can ask what it was."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index(
        "links_changed",
        "links",
        ["touched_at"],
        postgresql_where=sa.text("version > 1"),
        sqlite_where=sa.text("version > 1"),
    )
