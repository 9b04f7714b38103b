"""One line for each event on standard error, and the name of every event."""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

LOG = logging.getLogger("urlshortener")


def set_up_logs(level: str, *, readable: bool) -> None:
    """One line for each event on standard error: JSON for machines, text for a person at a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(_ReadableLines() if readable else _JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOG.setLevel(level.upper())


_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LONGEST_VALUE = 500


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: _cut(value) for name, value in vars(record).items() if name not in _PLAIN_RECORD}
    if record.exc_info and record.exc_info[0]:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info))[-4 * _LONGEST_VALUE :]
    return fields


def _cut(value: object) -> object:
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, list | tuple):
        return [_cut(part) for part in value[:20]]
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"at": at, "level": record.levelname.lower(), "event": _cut(record.getMessage()), "logger": record.name}
        return json.dumps(head | _fields(record), ensure_ascii=True, separators=(",", ":"))


class _ReadableLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = _fields(record)
        exception = fields.pop("exception", "")
        words = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
        event = json.dumps(record.getMessage(), ensure_ascii=True)[1:-1]
        line = f"{at} {record.levelname.lower():7} {event} {words}".rstrip()
        return f"{line}\n{exception}" if exception else line
