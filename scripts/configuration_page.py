"""Write docs/configuration.md from the table of settings; `make docs` runs it, and a test holds the page to it."""

from pathlib import Path

from urlshortener.settings import TABLE

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

_HEAD = """# Configuration

Every setting is an environment variable. This page is made from the table in `src/urlshortener/settings.py`
(`make docs`); `urlshortener --help` prints the same.

An empty variable is as if it were not set. A wrong value stops the start, with its name and what would be right.
A setting marked *secret* may also be in a file: set `NAME_FILE` to the file's path instead of `NAME`.
Durations have a unit (`250ms`, `5s`, `10m`, `24h`, `7d`), sizes may have one (`64Ki`, `800Mi`, `4Gi`).

| name | default | meaning | example |
|---|---|---|---|
"""

_TAIL = """
## Which addresses go together

A file belongs to one process. What two processes share has to be on a server:

| command | `LINKS_URL` | `EVENTS_URL` | `STATS_URL` |
|---|---|---|---|
| `run` | `sqlite://` or `postgresql://` | `in-process://` or `amqp://` | `sqlite://`, `redis://` or `redis+sentinel://` |
| `shortener` | `postgresql://` | `amqp://` | – |
| `analytics` | `postgresql://` | `amqp://` | `redis://` or `redis+sentinel://` |
| `migrate` | `sqlite://` or `postgresql://` | – | – |

A password with characters that an address cannot hold as they are (`/`, `@`, `:`, `%`) is written percent-encoded
there, or plainly in `LINKS_PASSWORD`, `EVENTS_PASSWORD`, `STATS_PASSWORD`, or their files.
"""


def page() -> str:
    """The page's text."""
    rows = []
    for setting in TABLE:
        name = f"`{setting.name}`" + (" *secret*" if setting.secret else "")
        default = f"`{setting.default}`" if setting.default else "none"
        rows.append(f"| {name} | {default} | {setting.meaning} | `{setting.example}` |\n")
    return _HEAD + "".join(rows) + _TAIL


if __name__ == "__main__":
    PAGE.write_text(page())
