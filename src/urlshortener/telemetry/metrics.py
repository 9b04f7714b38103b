"""Every metric: its name, type and meaning, and the labels that it has.

docs/metrics.md is made from this file (`make docs`). Labels have few values: never a code, an address or a user agent.
"""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Exemplar

REGISTRY = CollectorRegistry()

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LOOP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(name, meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(name, meaning, labels, registry=REGISTRY, buckets=buckets)


def unit_of(name: str) -> str:
    """What a metric's numbers are in: seconds, bytes, or nothing but numbers."""
    return next((unit for unit in ("seconds", "bytes") if unit in name.split("_")), "")


def add_many(counter: Counter, number: int) -> None:
    """As `inc`, for less than half: what it checks is known here."""
    counter._value.inc(number)


def observe_many(histogram: Histogram, value: float, times: int, exemplar: dict[str, str] | None = None) -> None:
    """`times` observations of the same value, for the price of one. `exemplar` leads to the trace of one of them."""
    for place, bound in enumerate(histogram._upper_bounds):
        if value <= bound:
            histogram._buckets[place].inc(times)
            if exemplar is not None:
                histogram._buckets[place].set_exemplar(Exemplar(exemplar, value, time.time()))
            break
    histogram._sum.inc(value * times)


# doors
REQUESTS = _counter("http_requests_total", "Requests answered.", "service", "route", "method", "status")
REQUEST_SECONDS = _histogram("http_request_duration_seconds", "Time to answer a request.", "service", "route")
READY = _gauge("service_ready", "1 while the service says it is ready.", "service")

WORKERS = _gauge("workers", "Worker processes that are ready, of a service that has some.")
WORKERS_REPLACED = _counter("workers_replaced_total", "Worker processes that ended by themselves and were replaced.")

# links
REDIRECTS = _counter("redirects_total", "Redirects by how they ended: found, gone, unknown, unavailable.", "outcome")
FAST_REDIRECTS = _counter("redirects_fast_total", "Redirects that took the fast way, before the HTTP parser.")
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

DATABASE_CONNECTIONS_USED = _gauge("database_connections_used", "Connections in use of a pool.", "pool")
DATABASE_CONNECTIONS_MOST = _gauge("database_connections_most", "Connections that a pool may have.", "pool")
DATABASE_FAILOVERS = _counter(
    "database_failovers_total",
    "Times that all connections of a pool were given up, because the primary had moved.",
    "pool",
)

# events
SPOOL_BYTES = _gauge("spool_bytes", "Bytes of events on disk that are not confirmed yet, dead processes' included.")
SPOOL_OLDEST_SECONDS = _gauge("spool_oldest_event_age_seconds", "Age of the oldest event that is not confirmed yet.")
EVENTS_SPOOLED = _counter("events_spooled_total", "Events written to the spool.")
EVENTS_UNSPOOLED = _counter(
    "events_unspooled_total",
    "Events that no disk could take (full, or over SPOOL_MAX_BYTES): redirected, not counted.",
)
SPOOL_TORN = _counter("spool_torn_frames_total", "Torn or damaged parts of spool files that were set aside.")
EPOCHS_ADOPTED = _counter("spool_epochs_adopted_total", "Spools of dead processes that this one took over.")
EVENTS_CONFIRMED = _counter("events_confirmed_total", "Events that the broker confirmed.")
MESSAGES_UNCONFIRMED = _gauge("event_messages_unconfirmed", "Messages that were sent and are not confirmed yet.")
CONFIRM_SECONDS = _histogram("event_confirm_duration_seconds", "Time from sending a message to the broker's confirm.")
BROKER_CONNECTED = _gauge("broker_connected", "1 while connected to a broker.", "role")
BROKER_BLOCKED = _gauge("broker_blocked", "1 while the broker takes nothing (memory or disk alarm).")
BROKER_CONNECTS = _counter("broker_connects_total", "Connections made to a broker, the first included.", "role")
DEAD_LETTERS = _counter("dead_letters_total", "Messages set aside because they are not access events.")

# stats
EVENTS_COUNTED = _counter("events_counted_total", "Events counted for the first time.")
EVENTS_DUPLICATE = _counter("events_duplicate_total", "Events delivered again and not counted again.")
EVENTS_RETRIED = _counter(
    "events_retried_total", "Second tries of a proxy for one click, told by the edge's request id and not counted."
)
REQUESTS_UNREMEMBERED = _counter(
    "request_ids_unremembered_total",
    "Counted events whose request id there was no room for (REQUEST_IDS_MAX): a proxy's retry of them counts too.",
)
COUNTS_MISSING = _gauge(
    "events_missing",
    "Events that were numbered over a minute ago and are not counted: lost, or on their way. Clean: no value at all.",
    "shortener",
    "hour",
)
EVENT_AGE_SECONDS = _histogram(
    "event_age_when_counted_seconds", "Age of an event when it is counted: freshness.", buckets=_LONG_SECONDS
)
STATS_FAILOVERS = _counter("stats_failovers_total", "Times the counts moved to another Redis process.")
STATS_AVAILABLE = _gauge("stats_available", "1 while the store of counts answers.")

# the process, and telemetry itself
LOOP_DELAY_SECONDS = _histogram(
    "event_loop_delay_seconds",
    "How late the event loop does what is due: above 0.1 s all requests wait.",
    buckets=_LOOP_SECONDS,
)
LOG_LINES_SUPPRESSED = _counter(
    "log_lines_suppressed_total", "Lines that were not written, because many of the same event had been.", "event"
)
SPANS_SENT = _counter("spans_sent_total", "Spans that the collector took.")
SPANS_LOST = _counter("spans_lost_total", "Spans that were made and not taken by the collector in time.")
