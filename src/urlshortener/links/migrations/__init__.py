"""The schema of links through time, as Alembic revisions; and the one way to bring a database up to date."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class MigrationOutcome:
    """What a migration found and left; its text is what `urlshortener migrate` prints."""

    found: str | None  # the revision before; None: an empty database
    left: str
    database_is_newer: bool = False  # left as it is, so that a rollback can start: old code runs on the new schema

    def __str__(self) -> str:
        if self.database_is_newer:
            return f"The links database is at {self.found}, newer than this version knows. Nothing was changed."
        if self.found == self.left:
            return f"The links database is at {self.left} already. Nothing was changed."
        return f"The links database was brought from {self.found or 'nothing'} to {self.left}."


def newest() -> str:
    """The revision that this version wants."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the package was built without its migrations")
    return head


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def upgrade(connection: Connection) -> MigrationOutcome:
    """Bring the schema up to date within the caller's transaction, which must keep out everybody else who migrates."""
    config = _config()
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    wanted = newest()
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        return MigrationOutcome(found, found, database_is_newer=True)
    if found != wanted:
        command.upgrade(config, "head")
    return MigrationOutcome(found, wanted)
