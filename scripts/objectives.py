"""Write the objectives' rules, k8s/components/monitoring/objectives.yaml, from the table below; `make docs` runs it.

An objective allows a share of what happens to go wrong in 30 days: its budget. How fast that is used up is its burn rate;
1 uses it up in exactly 30 days. Alerts ask for two windows at once, so that they come soon, are certain, and end soon (the
way of the Site Reliability Workbook, chapter 5): 14.4 over an hour is 2 % of the budget, 6 over six hours 5 %, 1 over three
days 10 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

RULES = Path(__file__).parent.parent / "k8s" / "components" / "monitoring" / "objectives.yaml"
RUNBOOKS = "docs/operations.md"

WINDOWS = ("5m", "30m", "1h", "6h", "3d")
CRITICAL = ((14.4, "1h", "5m"), (6, "6h", "30m"))
WARNING = ((1, "3d", "6h"),)


@dataclass(frozen=True)
class Objective:
    """Of all `total`, the share that is to be good; `bad` and `total` are what happened in WINDOW."""

    name: str
    alert: str
    target: float
    bad: str
    total: str
    summary: str

    @property
    def budget(self) -> float:
        return round(1 - self.target, 6)


_REDIRECTS = 'service="shortener-service",route="/{code}"'


def _later_than(histogram: str, bucket: str, labels: str = "") -> tuple[str, str]:
    total = _rate(f"{histogram}_count", labels)
    in_time = _rate(f"{histogram}_bucket", ",".join(filter(None, [labels, f'le="{bucket}"'])))
    return f"{total} - {in_time}", total


def _rate(name: str, labels: str) -> str:
    return f"sum by (namespace) (rate({name}{{{labels}}}[WINDOW]))"


OBJECTIVES = (
    Objective(
        "availability",
        "RedirectsFail",
        0.999,
        _rate("http_requests_total", f'{_REDIRECTS},status=~"5.."'),
        _rate("http_requests_total", _REDIRECTS),
        "Visitors of short links get an error that is ours.",
    ),
    Objective(
        "latency",
        "RedirectsLate",
        0.99,
        *_later_than("http_request_duration_seconds", "0.1", _REDIRECTS),
        "Redirects take longer than 100 ms.",
    ),
    Objective(
        "freshness",
        "CountsLate",
        0.99,
        *_later_than("event_age_when_counted_seconds", "10.0"),
        "Visits are counted more than 10 s after they happened.",
    ),
    Objective(  # what is missing stays so until it heals, so its time is what a burn rate can be told of
        "completeness",
        "CountsMissing",
        0.99,
        "sum_over_time((max by (namespace) (events_missing) > bool 0)[WINDOW:1m])",
        "count_over_time((max by (namespace) (stats_available))[WINDOW:1m])",
        "Visits that happened are not in the counts.",
    ),
)


def _ratio(objective: Objective, window: str) -> str:
    return f"({objective.bad}) / ({objective.total})".replace("WINDOW", window)


def _burns(objective: Objective, rates: tuple[tuple[float, str, str], ...]) -> str:
    def faster(rate: float, window: str) -> str:
        series = f'objective:bad:ratio_rate{window}{{objective="{objective.name}"}}'
        return f"{series} > {round(rate * objective.budget, 6)}"

    return " or ".join(f"({faster(rate, long)} and {faster(rate, short)})" for rate, long, short in rates)


def _records() -> Iterator[dict[str, Any]]:
    for objective in OBJECTIVES:
        for window in WINDOWS:
            yield {
                "record": f"objective:bad:ratio_rate{window}",
                "expr": _ratio(objective, window),
                "labels": {"objective": objective.name},
            }


def _alerts() -> Iterator[dict[str, Any]]:
    for objective in OBJECTIVES:
        for suffix, rates, severity, pace in (
            ("", CRITICAL, "critical", "a month's budget would be gone in two to five days"),
            ("Slowly", WARNING, "warning", "the month's budget will be gone before its end"),
        ):
            yield {
                "alert": f"{objective.alert}{suffix}",
                "expr": _burns(objective, rates),
                "labels": {"severity": severity},
                "annotations": {
                    "summary": f"{objective.summary} At this rate {pace}.",
                    "runbook": f"{RUNBOOKS}#{objective.alert.lower()}",
                },
            }


def rules() -> str:
    """The file's text."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "url-shortener-objectives"},
        "spec": {
            "groups": [
                {"name": "url-shortener-ratios", "interval": "30s", "rules": list(_records())},
                {"name": "url-shortener-objectives", "rules": list(_alerts())},
            ]
        },
    }
    text: str = yaml.safe_dump(rule, sort_keys=False, width=110)
    return f"# Made by scripts/objectives.py (`make docs`).\n{text}"


if __name__ == "__main__":
    RULES.write_text(rules())
