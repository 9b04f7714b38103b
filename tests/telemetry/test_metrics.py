"""The same numbers over both ways: what Prometheus reads, and what goes to a collector."""

from typing import Any

from opentelemetry.sdk.metrics.export import Gauge, Histogram, MetricsData, Sum
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram

from urlshortener.telemetry import REGISTRY, unit_of
from urlshortener.telemetry.sending_metrics import metrics_data


def _data(data: MetricsData) -> dict[str, Any]:
    return {metric.name: metric.data for metric in data.resource_metrics[0].scope_metrics[0].metrics}


def test_a_collector_gets_the_numbers_of_the_registry() -> None:
    registry = CollectorRegistry()
    PrometheusCounter("clicks_total", "…", ("outcome",), registry=registry).labels("found").inc(3)
    PrometheusGauge("spool_bytes", "…", registry=registry).set(7)
    seconds = PrometheusHistogram("took_seconds", "…", ("route",), buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.5, 0.7, 9):
        seconds.labels("/x").observe(value, {"trace_id": "0a" * 16, "span_id": "0b" * 8} if value == 0.7 else None)

    data = _data(metrics_data(registry, Resource({}), 5))
    clicks, spool, took = data["clicks"], data["spool_bytes"], data["took_seconds"]
    assert isinstance(clicks, Sum)
    assert clicks.is_monotonic
    (point,) = clicks.data_points
    assert (point.value, point.attributes, point.start_time_unix_nano) == (3, {"outcome": "found"}, 5)
    assert isinstance(spool, Gauge)
    assert spool.data_points[0].value == 7
    assert isinstance(took, Histogram)
    (distribution,) = took.data_points
    assert distribution.attributes == {"route": "/x"}
    assert (distribution.count, distribution.bucket_counts, distribution.explicit_bounds) == (4, [1, 2, 1], [0.1, 1.0])
    assert distribution.sum == 10.25
    (exemplar,) = distribution.exemplars
    assert (exemplar.value, f"{exemplar.trace_id:032x}", f"{exemplar.span_id:016x}") == (0.7, "0a" * 16, "0b" * 8)


def test_every_metric_of_ours_can_go_there() -> None:
    assert len(_data(metrics_data(REGISTRY, Resource({}), 0))) > 35


def test_the_unit_is_in_the_name() -> None:
    assert [unit_of(name) for name in ("spool_bytes", "event_age_when_counted_seconds", "redirects_total")] == [
        "bytes",
        "seconds",
        "",
    ]
