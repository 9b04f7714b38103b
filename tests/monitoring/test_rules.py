"""Rules of Prometheus, checked and played on made-up series by its own promtool."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from scripts import objectives
from tests.monitoring.promtool import promtool
from tests.monitoring.standbys import metrics_of_standbys
from urlshortener.telemetry import REGISTRY

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "k8s" / "components" / "monitoring"
SERIES = [Path(__file__).parent / name for name in ("minutes.yaml", "days.yaml")]
FILES = ("alerts.yaml", "objectives.yaml")
RULES: list[dict[str, Any]] = [
    rule
    for file in FILES
    for group in yaml.safe_load((MONITORING / file).read_text())["spec"]["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]

# Of other systems: their exporters name these.
_FOREIGN = {
    "redis_memory_used_bytes",
    "redis_memory_max_bytes",
    "cnpg_collector_up",
    "cnpg_pg_stat_archiver_last_failed_time",
    "cnpg_pg_stat_archiver_last_archived_time",
    *metrics_of_standbys(),
    "otelcol_exporter_enqueue_failed_spans",
}


@pytest.fixture
def rule_files(tmp_path: Path) -> Path:
    for file in FILES:
        spec = yaml.safe_load((MONITORING / file).read_text())["spec"]
        for group in spec["groups"]:
            group.pop("interval", None)  # days are played in steps of an hour
        (tmp_path / file).write_text(yaml.safe_dump(spec))
    return tmp_path


def test_prometheus_takes_the_rules(rule_files: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", *(rule_files / file for file in FILES))


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.stem)
def test_alerts_fire_when_they_should_and_only_then(rule_files: Path, series: Path) -> None:
    shutil.copy(series, rule_files)
    promtool("test", "rules", rule_files / series.name)


def test_every_alert_is_played() -> None:
    fires = {
        case["alertname"]
        for series in SERIES
        for test in yaml.safe_load(series.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert {alert["alert"] for alert in ALERTS} == fires


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)\n\n(.+)", (ROOT / page).read_text(), re.M)
    assert anchor in {heading.lower() for heading, text in headings if len(text) > 60}


def test_every_runbook_has_an_alert() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().split("\n## Alerts")[1].split("\n## ")[0]
    wanted = {alert["annotations"]["runbook"].partition("#")[2] for alert in ALERTS}
    assert {heading.lower() for heading in re.findall(r"^### (\w+)", section, re.M)} == wanted


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_asks_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    known = set(REGISTRY._names_to_collectors) | _FOREIGN
    asked = set(re.findall(r"\b([a-z]+(?:_[a-z0-9]+)+)(?=[{\[)\s]|$)", re.sub(r"objective:bad:\w+", "", rule["expr"])))
    assert asked - {"histogram_quantile"} <= known


def test_the_objectives_are_made_from_their_table() -> None:
    assert objectives.RULES.read_text() == objectives.rules(), "run `make docs`"


def test_the_page_of_operations_has_the_objectives_of_the_table() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \| all [\w ]+ \| [^|]+ \| ([\d.]+) % \|", page, re.M))
    assert rows == {objective.name: f"{100 * objective.target:g}" for objective in objectives.OBJECTIVES}
    for objective, words in (("latency", "0.1"), ("freshness", "10.0")):
        (expression,) = (each.bad for each in objectives.OBJECTIVES if each.name == objective)
        assert f'le="{words}"' in expression
        assert f"within {words} s" in page
