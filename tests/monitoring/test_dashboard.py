"""The dashboard is made from the registry, asks only for what exists, and is where Grafana looks for it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from scripts import dashboard
from tests.monitoring.promtool import promtool
from urlshortener.telemetry import REGISTRY

ROOT = Path(__file__).parent.parent.parent
PANELS: list[dict[str, Any]] = json.loads(dashboard.PAGE.read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def test_it_is_made_from_the_registry() -> None:
    assert dashboard.PAGE.read_text() == dashboard.page(), "run `make docs`"


def test_it_answers_four_questions() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Is it healthy?", "How fast?", "How fresh?", "What is saturated?"]


def test_no_panel_names_a_metric_that_does_not_exist() -> None:
    asked = {name for query in QUERIES for name in re.findall(r"([a-z_]+)\{", query)}
    assert len(asked) > 25
    assert asked <= set(REGISTRY._names_to_collectors)


def test_labels_that_it_groups_by_are_the_metrics_own() -> None:
    for query in QUERIES:
        (names,) = {tuple(re.findall(r"([a-z_]+)\{", query)[:1])}
        labels = getattr(REGISTRY._names_to_collectors[names[0]], "_labelnames", ())
        grouped = {label for by in re.findall(r"by \(([a-z, ]+)\)", query) for label in by.split(",")}
        assert grouped <= {*labels, "le", "pod"}, query


def test_prometheus_understands_its_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "1m").replace("$namespace", ".*")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert "SUCCESS" in promtool("check", "rules", file)


@pytest.mark.parametrize("panel", re.findall(r"\*([A-Z][\w: ]+?)\*", (ROOT / "docs" / "operations.md").read_text()))
def test_a_panel_that_a_runbook_names_is_there(panel: str) -> None:
    assert panel in {each["title"] for each in PANELS} | {"Slowly"}


def test_compose_and_the_component_have_it() -> None:
    component = yaml.safe_load((dashboard.PAGE.parent / "kustomization.yaml").read_text())
    assert dashboard.PAGE.name in component["configMapGenerator"][0]["files"]
    mounted = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert any(str(dashboard.PAGE.relative_to(ROOT)) in volume for volume in mounted)


def test_prometheus_takes_the_configuration_of_compose() -> None:
    assert "SUCCESS" in promtool("check", "config", ROOT / "docker" / "prometheus.yaml")
