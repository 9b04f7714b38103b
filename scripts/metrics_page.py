"""Write docs/metrics.md from the registry of metrics; `make docs` runs it, and a test holds the page to it."""

from pathlib import Path

from urlshortener.telemetry import REGISTRY, unit_of

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

_HEAD = """# Metrics

Prometheus text at `/metrics` of the second door (`:9090` shortener, `:9091` analytics). This page is made from
`src/urlshortener/telemetry/metrics.py` (`make docs`). Where the collector is set, the same
numbers go to it (OTLP). In the OpenMetrics format the histogram of requests leads to traces (exemplars). Several worker
processes are one service here: counters and histograms add up, gauges as `services/merged.py` says of each; to the collector
each worker sends its own, and `workers`, `workers_replaced_total` and `service_ready` mean something at the second door
only. No label ever holds a code, an address or a user agent.

| name | type | unit | labels | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """The page's text."""
    rows = []
    for metric in sorted(REGISTRY.collect(), key=lambda metric: metric.name):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in _labels(name))
        rows.append(f"| `{name}` | {metric.type} | {unit_of(name)} | {labels} | {metric.documentation} |\n")
    return _HEAD + "".join(rows)


def _labels(name: str) -> tuple[str, ...]:
    metric = REGISTRY._names_to_collectors[name]
    return tuple(getattr(metric, "_labelnames", ()))


if __name__ == "__main__":
    PAGE.write_text(page())
