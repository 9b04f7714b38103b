"""Write docs/metrics.md from the registry of metrics; `make docs` runs it, and a test holds the page to it."""

from pathlib import Path

from urlshortener.telemetry import REGISTRY

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

_HEAD = """# Metrics

Prometheus text at `/metrics` of the second door (`:9090` shortener, `:9091` analytics). This page is made from
`src/urlshortener/telemetry/metrics.py` (`make docs`). No label ever holds a code, an address or a user agent.

| name | type | meaning |
|---|---|---|
"""


def page() -> str:
    """The page's text."""
    rows = []
    for metric in sorted(REGISTRY.collect(), key=lambda metric: metric.name):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        rows.append(f"| `{name}` | {metric.type} | {metric.documentation} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
