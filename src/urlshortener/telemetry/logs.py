"""One line for each event on standard error, and the name of every event.

A level means: `error`, something is wrong that does not mend itself; `warning`, something is away or was lost, and the
service goes on; `info`, what an operator may want to know afterwards.
"""

import contextvars
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

from urlshortener.telemetry.metrics import LOG_LINES_SUPPRESSED

LOG = logging.getLogger("urlshortener")

# Names stay as they are: alerts and habits are built on them. tests/telemetry/test_logs.py holds all lines to it.
EVENTS: Mapping[str, str] = {
    # the process
    "ready": "The service wants visitors.",
    "draining": "A stop was asked for: not ready any more.",
    "stopped": "The end; its exit code is beside it.",
    "stop_cut_short": "Something hung while stopping, and was given up.",
    "stop_failed": "Something failed while stopping.",
    "task_ended": "A part of the service ended by itself: a defect.",
    "worker_ended": "A worker process ended by itself, and is replaced.",
    "worker_not_started": "A worker process could not be started, and is tried again.",
    "waiting": "A back end has not answered since the start.",
    # doors
    "request": "A request, where the access log is on.",
    "unexpected_error": "A defect; the traceback is beside it.",
    # links
    "database_away": "A server of links cannot be used, and why.",
    "database_refused": "The database answered what it never should; 42P01: it is not migrated.",
    "links_refused_together": "One of several new links was not taken: each is tried by itself.",
    "links_failed_together": "Several new links failed unexpectedly: their halves are tried alone.",
    "link_not_safe": "A kept target must not be sent to a browser: it is left out.",
    "lookup_failed": "A lookup failed unexpectedly.",
    "listening_failed": "Listening for changed links failed unexpectedly: it begins again.",
    "keys_not_forgotten": "Old idempotency keys were not removed: the next time is soon enough.",
    # events
    "spool_full": "No disk takes events: they are counted as dropped.",
    "spool_unreadable": "A part of the spool cannot be read, and is left alone.",
    "spool_of_another_version": "A spool that this version cannot read is left alone.",
    "spool_adopted": "What a dead process left is being sent.",
    "spool_set_aside": "A damaged or week-old part of a spool lies in quarantine.",
    "spool_set_aside_failed": "It could not be put there.",
    "broker_connected": "Connected to a broker.",
    "broker_away": "A broker cannot be used, and why.",
    "broker_topology_differs": "The exchange or a queue exists with other arguments.",
    "publishing_interrupted": "The connection was given up; what was not confirmed is sent again.",
    "receiving_interrupted": "The connection was given up; what was not acknowledged comes again.",
    "dead_letter": "A message that is no access event was set aside.",
    "dead_letter_delayed": "It could not be set aside yet.",
    "dead_letter_not_kept": "It could not be set aside, and stays in the spool.",
    # stats
    "counting_paused": "The counts take no writes.",
    "counted_again": "What a Redis may have forgotten was counted again.",
    "counts_missing": "Events that were numbered are not counted, or no longer missing.",
    "counts_unreachable": "No Redis that takes writes was found.",
    "counts_moved": "Another Redis process has the counts now.",
    "counts_on_one_disk": "Redis has no replica: counts are as safe as its one disk.",
    "counts_may_be_evicted": "Redis may throw counts away: set its maxmemory-policy to noeviction.",
    "counts_policy_unknown": "Whether Redis may throw counts away could not be asked.",
    "tidy_postponed": "Old series were not removed: the next time is soon enough.",
    # telemetry
    "spans_lost": "The collector did not take spans in time.",
}


def set_up_logs(level: str, *, readable: bool) -> None:
    """One line for each event on standard error: JSON for machines, text for a person at a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(_ReadableLines() if readable else _JsonLines())
    handler.addFilter(Repeated())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOG.setLevel(level.upper())


_request_ids: contextvars.ContextVar[Callable[[], Mapping[str, str]] | None] = contextvars.ContextVar(
    "request_ids", default=None
)


def said_in_logs(ids: Callable[[], Mapping[str, str]]) -> None:
    """Have every line from here on, in this request, say which it is about; nobody is asked where there is none."""
    _request_ids.set(ids)


def _ids() -> dict[str, str]:
    tell = _request_ids.get()
    ids = dict(tell()) if tell is not None else {}
    span = trace.get_current_span()
    if span.is_recording():
        found = span.get_span_context()
        ids |= {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"}
    return ids


class Repeated(logging.Filter):
    """Lets at most twenty lines of an event through in ten seconds: an outage must not be a log of its own.

    How many were left out is counted, and stands on the next line of that event. The access log is sampled, not cut.
    """

    _WINDOW_SECONDS = 10.0
    _MOST = 20

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # of each event: since when, how many

    def filter(self, record: logging.LogRecord) -> bool:
        event = record.msg
        if event not in EVENTS or event == "request":
            return True
        since, lines = self._windows.get(event, (float("-inf"), 0))
        if self._clock() - since > self._WINDOW_SECONDS:
            self._windows[event] = self._clock(), 1
            if lines > self._MOST:
                record.suppressed = lines - self._MOST
            return True
        self._windows[event] = since, lines + 1
        if lines >= self._MOST:
            LOG_LINES_SUPPRESSED.labels(event).inc()
            return False
        return True


_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LONGEST_VALUE = 500


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {name: _cut(value) for name, value in _ids().items()}
    fields |= {name: _cut(value) for name, value in vars(record).items() if name not in _PLAIN_RECORD}
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
        words = " ".join(f"{name}={json.dumps(value, ensure_ascii=True)}" for name, value in fields.items())
        event = json.dumps(record.getMessage(), ensure_ascii=True)[1:-1]
        line = f"{at} {record.levelname.lower():7} {event} {words}".rstrip()
        return f"{line}\n{exception}" if exception else line
