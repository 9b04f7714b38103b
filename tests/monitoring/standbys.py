"""The query by which PostgreSQL's exporter counts standbys, from the component for monitoring."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

QUERIES: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "k8s" / "components" / "monitoring" / "standbys.yaml").read_text()
)


def metrics_of_standbys() -> set[str]:
    """Named as the operator names them: after the query, then its column."""
    return {f"cnpg_{name}_{column}" for name, query in QUERIES.items() for each in query["metrics"] for column in each}
