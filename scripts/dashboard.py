"""Write the Grafana dashboard, k8s/components/monitoring/dashboard.json, from the registry of metrics; `make docs` runs it.

A panel takes its metrics as the objects that the code counts with, so that none can name one that does not exist.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from urlshortener import telemetry as t

PAGE = Path(__file__).parent.parent / "k8s" / "components" / "monitoring" / "dashboard.json"

Metric = Counter | Gauge | Histogram
_PODS = 'namespace=~"$namespace"'
_REDIRECT = 'route="/{code}"'


@dataclass(frozen=True)
class Line:
    """One query of a panel, and what its lines are called."""

    query: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    lines: tuple[Line, ...]
    words: str


def _name(metric: Metric) -> str:
    return f"{metric._name}_total" if isinstance(metric, Counter) else metric._name


def _labels(*more: str) -> str:
    return "{" + ",".join([_PODS, *filter(None, more)]) + "}"


def _each(by: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by.split(","))


def rate(metric: Counter, by: str = "", only: str = "") -> Line:
    grouped = f"by ({by}) " if by else ""
    return Line(f"sum {grouped}(rate({_name(metric)}{_labels(only)}[$__rate_interval]))", _each(by) if by else "all")


def most(metric: Gauge, by: str = "pod", only: str = "") -> Line:
    return Line(f"max by ({by}) ({_name(metric)}{_labels(only)})", _each(by))


def total(metric: Gauge, by: str) -> Line:
    return Line(f"sum by ({by}) ({_name(metric)}{_labels()})", _each(by))


def quantiles(metric: Histogram, only: str = "", shares: tuple[float, ...] = (0.5, 0.99)) -> tuple[Line, ...]:
    buckets = f"sum by (le) (rate({_name(metric)}_bucket{_labels(only)}[$__rate_interval]))"
    return tuple(
        Line(f"histogram_quantile({share}, {buckets})", f"p{100 * share:g}", exemplars=share == max(shares))
        for share in shares
    )


def within(metric: Histogram, seconds: str, only: str = "") -> Line:
    up_to = _labels(only, f'le="{seconds}"')
    in_time = f"sum(rate({_name(metric)}_bucket{up_to}[$__rate_interval]))"
    return Line(f"{in_time} / sum(rate({_name(metric)}_count{_labels(only)}[$__rate_interval]))", f"within {seconds} s")


def share(part: Counter, part_only: str, of: Counter, of_only: str = "") -> Line:
    above = f"sum(rate({_name(part)}{_labels(part_only)}[$__rate_interval]))"
    return Line(f"{above} / sum(rate({_name(of)}{_labels(of_only)}[$__rate_interval]))", "share")


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Is it healthy?",
        (
            Panel("Redirects by outcome", "reqps", (rate(t.REDIRECTS, "outcome"),), "unavailable is ours to mend."),
            Panel(
                "Redirects that fail",
                "percentunit",
                (share(t.REQUESTS, f'{_REDIRECT},status=~"5.."', t.REQUESTS, _REDIRECT),),
                "The objective allows 0.1 %.",
            ),
            Panel("Ready", "none", (total(t.READY, "service"),), "Pods that want visitors."),
            Panel(
                "Connected",
                "none",
                (most(t.BROKER_CONNECTED, "role"), most(t.STATS_AVAILABLE), most(t.LISTENER_CONNECTED)),
                "To the broker (publish, consume), to the counts, to the database's notifications.",
            ),
            Panel(
                "Failovers and retries",
                "none",
                (rate(t.DATABASE_FAILOVERS, "pool"), rate(t.DATABASE_RETRIES, "reason"), rate(t.STATS_FAILOVERS)),
                "Of the database, and of the counts.",
            ),
            Panel("Counts missing", "none", (most(t.COUNTS_MISSING, "shortener,hour"),), "Clean: nothing at all."),
        ),
    ),
    (
        "How fast?",
        (
            Panel(
                "Time of a redirect",
                "s",
                quantiles(t.REQUEST_SECONDS, _REDIRECT, (0.5, 0.99, 0.999)),
                "Dots lead to traces.",
            ),
            Panel(
                "Redirects within 100 ms",
                "percentunit",
                (within(t.REQUEST_SECONDS, "0.1", _REDIRECT),),
                "The objective is 99 %.",
            ),
            Panel("Requests by route", "reqps", (rate(t.REQUESTS, "route"),), "All doors."),
            Panel(
                "Cache",
                "ops",
                (rate(t.CACHE_LOOKUPS, "held"), rate(t.STALE_SERVED)),
                "What was held of what was asked.",
            ),
            Panel("Lookup time", "s", quantiles(t.LOOKUP_SECONDS), "One batched lookup in the database."),
        ),
    ),
    (
        "How fresh?",
        (
            Panel("Age when counted", "s", quantiles(t.EVENT_AGE_SECONDS), "How late the numbers are."),
            Panel(
                "Counted within 10 s", "percentunit", (within(t.EVENT_AGE_SECONDS, "10.0"),), "The objective is 99 %."
            ),
            Panel(
                "Events on the road",
                "ops",
                (rate(t.EVENTS_SPOOLED), rate(t.EVENTS_CONFIRMED), rate(t.EVENTS_COUNTED), rate(t.EVENTS_DUPLICATE)),
                "Spooled, confirmed, counted, and known already.",
            ),
            Panel("Spool: bytes", "bytes", (most(t.SPOOL_BYTES),), "Not yet confirmed by the broker."),
            Panel("Spool: oldest event", "s", (most(t.SPOOL_OLDEST_SECONDS),), "How long the broker takes nothing."),
            Panel(
                "Confirms",
                "s",
                quantiles(t.CONFIRM_SECONDS),
                "From sending a message to the broker's confirm.",
            ),
            Panel(
                "Dropped and set aside",
                "ops",
                (rate(t.EVENTS_UNSPOOLED), rate(t.DEAD_LETTERS)),
                "No disk took them; nobody could read them.",
            ),
        ),
    ),
    (
        "What is saturated?",
        (
            Panel("Event loop delay", "s", quantiles(t.LOOP_DELAY_SECONDS), "Above 0.1 s every request waits."),
            Panel(
                "Connections in use",
                "none",
                (total(t.DATABASE_CONNECTIONS_USED, "pool"), total(t.DATABASE_CONNECTIONS_MOST, "pool")),
                "Of each pool, and what it may have.",
            ),
            Panel("Messages unconfirmed", "none", (most(t.MESSAGES_UNCONFIRMED),), "64 are as many as there may be."),
            Panel("Remembered links", "bytes", (most(t.CACHE_BYTES),), "Against CACHE_MAX_BYTES."),
            Panel("Broker takes nothing", "none", (most(t.BROKER_BLOCKED),), "Its memory or disk alarm."),
            Panel(
                "Telemetry lost",
                "ops",
                (rate(t.SPANS_LOST), rate(t.LOG_LINES_SUPPRESSED, "event")),
                "Spans, and lines of the log.",
            ),
        ),
    ),
)
_WIDTH, _HEIGHT, _IN_A_ROW = 8, 8, 3
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    several = len(panel.lines) > 1
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.words,
        "datasource": _DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "expr": line.query,
                "legendFormat": _legend(line) if several else line.legend,
                "exemplar": line.exemplars,
            }
            for place, line in enumerate(panel.lines)
        ],
    }


def _legend(line: Line) -> str:
    """Which of several metrics it is, unless the lines say so by themselves."""
    if line.legend.startswith(("p", "within")):
        return line.legend
    metric = line.query.partition("{")[0].rpartition("(")[2].removesuffix("_total")
    return metric if line.legend == "all" else f"{metric} {line.legend}"


def page() -> str:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )
        y += 1
        for place, panel in enumerate(row):
            x = _WIDTH * (place % _IN_A_ROW)
            panels.append(_panel(len(panels) + 1, panel, x, y + _HEIGHT * (place // _IN_A_ROW)))
        y += _HEIGHT * -(-len(row) // _IN_A_ROW)
    dashboard = {
        "uid": "url-shortener",
        "title": "url-shortener",
        "tags": ["url-shortener"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": _DATASOURCE,
                    "query": f"label_values({_name(t.READY)}, namespace)",
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
