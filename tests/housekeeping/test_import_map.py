"""Who may import whom: the rooms lie along a road, and nothing on it looks back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[2] / "src"
_PACKAGE = "urlshortener"
_OPEN_TO_ALL = {"errors", "telemetry"}

# What each room may import besides itself and what is open to all. A name with a dot is one file, without: all of it.
_MAY_IMPORT = {
    "errors": set[str](),
    "telemetry": {"errors"},
    "settings": {"errors"},
    "links": set[str](),
    "events": set[str](),
    "stats": {"events.event"},
    "services": {"links", "events", "stats", "settings"},
    "cli": {"services", "settings", "links", "events", "stats"},
    "__init__": set[str](),
    "__main__": {"cli"},
}

# The files that may import a driver: those that bear its name, and those that hold its store.
_DRIVERS = {
    "aiormq": ("amqp",),
    "pamqp": ("amqp",),
    "asyncpg": ("postgresql",),
    "aiosqlite": ("sqlite",),
    "sqlite3": ("sqlite",),
    "redis": ("redis",),
    "sqlalchemy": ("links.sql_store", "links.sql_traces", "links.schema", "links.migrations", "postgresql", "sqlite"),
    "alembic": ("links.migrations",),
}


def _modules() -> dict[str, Path]:
    """Every file, by its name inside the package: `links.store`."""
    root = _SOURCE / _PACKAGE
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}


def _imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Everything a file imports, wherever in it, with relative imports made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [_PACKAGE, *module.split(".")][: -node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from urlshortener import settings` names a file in its second half
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _inside(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


def _breaches(module: str, code: str) -> list[str]:
    room = module.split(".", maxsplit=1)[0]
    allowed = {room, *_OPEN_TO_ALL, *_MAY_IMPORT[room]} - ({"telemetry"} if room == "errors" else set())
    found = []
    for name in _imports(module, ast.parse(code)):
        if _inside(name, _PACKAGE):
            target = name.removeprefix(_PACKAGE).lstrip(".")
            if target.split(".")[0] in _MAY_IMPORT and not any(_inside(target, each) for each in allowed):
                found.append(f"{module} imports {target}")
        elif (driver := name.split(".")[0]) in _DRIVERS and not _may_hold(module, driver):
            found.append(f"{module} imports {driver}")
    return found


def _may_hold(module: str, driver: str) -> bool:
    file = module.rsplit(".", maxsplit=1)[-1]
    return any(_inside(module, home) if "." in home else home in file.split("_") for home in _DRIVERS[driver])


@pytest.mark.parametrize("module", _modules())
def test_a_file_imports_only_what_the_map_allows(module: str) -> None:
    assert _breaches(module, _modules()[module].read_text()) == []


def test_every_room_is_on_the_map() -> None:
    rooms = {module.split(".")[0] for module in _modules()}
    assert rooms <= _MAY_IMPORT.keys()
    assert {"links", "events", "stats", "services"} <= rooms


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("links.store", "from urlshortener.settings import Settings"),
        ("links.store", "from urlshortener import settings"),
        ("links.store", "from ..events import event"),
        ("links.store", "def later():\n    import urlshortener.services.http"),
        ("events.spool", "from urlshortener.stats.store import StatsStore"),
        ("stats.store", "from urlshortener.events.spool import Spool"),
        ("stats.store", "from urlshortener.events import spool"),
        ("links.link", "from urlshortener.services import http"),
        ("errors", "from urlshortener.telemetry import LOG"),
        ("telemetry", "from urlshortener.links.link import Link"),
        ("links.directory", "import asyncpg"),
        ("stats.store", "from redis.asyncio import Redis"),
        ("services.backends", "if True:\n    import aiormq"),
        ("events.spool", "import sqlite3"),
    ],
)
def test_a_breach_is_seen(module: str, code: str) -> None:
    assert len(_breaches(module, code)) == 1


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("stats.store", "from urlshortener.events.event import AccessEvent"),
        ("links.store", "from .link import Link"),
        ("links.store", "from urlshortener.errors import CodeTaken"),
        ("events.amqp_source", "import aiormq"),
        ("services.backends", "from urlshortener.settings import Settings"),
        ("cli", "from urlshortener import __version__"),
    ],
)
def test_what_the_map_allows_is_no_breach(module: str, code: str) -> None:
    assert _breaches(module, code) == []


@pytest.mark.parametrize("module", ["fast_redirect", "fast_replies", "fast_traces", "protocol", "redirect"])
def test_nothing_that_answers_a_visitor_knows_of_counting(module: str) -> None:
    """So no user agent is looked up while one waits: only `stats` does that."""
    tree = ast.parse(_modules()[f"services.{module}"].read_text())
    assert not [name for name in _imports(f"services.{module}", tree) if _inside(name, f"{_PACKAGE}.stats")]
