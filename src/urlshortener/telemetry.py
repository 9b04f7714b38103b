"""Set-up of metrics, logs and traces, and every name that they use.

No metric, log event or span is named anywhere else. Labels have few values: never a code, an address or a user agent.
"""

import json
import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(name, meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(name, meaning, labels, registry=REGISTRY, buckets=buckets)


# doors
REQUESTS = _counter("http_requests_total", "Requests answered.", "service", "route", "method", "status")
REQUEST_SECONDS = _histogram("http_request_duration_seconds", "Time to answer a request.", "service", "route")
READY = _gauge("service_ready", "1 while the service says it is ready.", "service")

# links
REDIRECTS = _counter("redirects_total", "Redirects by how they ended: found, gone, unknown, unavailable.", "outcome")
CACHE_LOOKUPS = _counter(
    "link_cache_lookups_total", "Lookups of links by what the cache held: fresh, expired, absent.", "held"
)
CACHE_BYTES = _gauge("link_cache_bytes", "Estimated memory of remembered links.")
CACHE_LINKS = _gauge("link_cache_links", "Remembered links.")
STALE_SERVED = _counter(
    "link_stale_served_total", "Redirects from what was last known, because no database answered in time."
)
LISTENER_CONNECTED = _gauge("link_listener_connected", "1 while notifications of changed links flow.")
LOOKUP_SECONDS = _histogram("link_lookup_duration_seconds", "Time of one batched lookup.", "source")
DATABASE_RETRIES = _counter(
    "database_retries_total", "Statements tried again after a failover or a lost connection.", "reason"
)
CREATES_UNKNOWN = _counter(
    "link_creates_unknown_total", "Creates answered 503 because their outcome was not known in time."
)

# events
SPOOL_BYTES = _gauge("spool_bytes", "Bytes of events on disk that are not confirmed yet, adopted ones included.")
SPOOL_OLDEST_SECONDS = _gauge("spool_oldest_event_age_seconds", "Age of the oldest event that is not confirmed yet.")
EVENTS_SPOOLED = _counter("events_spooled_total", "Events written to the spool.")
EVENTS_UNSPOOLED = _counter(
    "events_unspooled_total",
    "Events that no disk could take (full, or over SPOOL_MAX_BYTES): redirected, not counted.",
)
SPOOL_TORN = _counter("spool_torn_frames_total", "Torn or damaged ends of spool files that were cut.")
EPOCHS_ADOPTED = _counter("spool_epochs_adopted_total", "Spools of dead processes that this one took over.")
EVENTS_CONFIRMED = _counter("events_confirmed_total", "Events that the broker confirmed.")
CONFIRM_SECONDS = _histogram("event_confirm_duration_seconds", "Time from sending a message to the broker's confirm.")
BROKER_CONNECTED = _gauge("broker_connected", "1 while connected to a broker.", "role")
BROKER_BLOCKED = _gauge("broker_blocked", "1 while the broker takes nothing (memory or disk alarm).")
BROKER_CONNECTS = _counter("broker_connects_total", "Connections made to a broker, the first included.", "role")
DEAD_LETTERS = _counter("dead_letters_total", "Messages set aside because they are not access events.")

# stats
EVENTS_COUNTED = _counter("events_counted_total", "Events counted for the first time.")
EVENTS_DUPLICATE = _counter("events_duplicate_total", "Events delivered again and not counted again.")
EVENT_AGE_SECONDS = _histogram(
    "event_age_when_counted_seconds", "Age of an event when it is counted: freshness.", buckets=_LONG_SECONDS
)
STATS_FAILOVERS = _counter("stats_failovers_total", "Times the counts moved to another Redis process.")
STATS_AVAILABLE = _gauge("stats_available", "1 while the store of counts answers.")

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


def set_up_traces(endpoint: str, ratio: float, service: str) -> Callable[[], None]:
    """Send spans to an OTLP/gRPC collector from now on; returns what flushes and ends it, within 2 s.

    The caller's decision to trace is followed, else `ratio` decides. A collector that is away costs only spans.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), sampler=ParentBasedTraceIdRatio(ratio)
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=2)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    def end() -> None:
        provider.force_flush(2000)
        provider.shutdown()

    return end
