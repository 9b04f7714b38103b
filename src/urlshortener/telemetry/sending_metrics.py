"""Sends the registry of metrics to an OpenTelemetry collector, over OTLP/gRPC: the same numbers as at /metrics."""

import asyncio
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Collected
from prometheus_client.samples import Sample

from urlshortener.telemetry.metrics import REGISTRY, unit_of

_EVERY_SECONDS = 15.0
_FIRST_SECONDS = 1.0
_EXPORT_SECONDS = 5
_GOODBYE_SECONDS = 1.0
_UNITS = {"seconds": "s", "bytes": "By"}
_SCOPE = InstrumentationScope("urlshortener")


class MetricSender:
    """Collects in the event loop, whose values these are; sends in a thread, which may wait for a collector."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        self._exporter = OTLPMetricExporter(
            endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_SECONDS
        )
        self._resource = resource
        self._began_ns = time.time_ns()
        self._to_send: queue.Queue[MetricsData | None] = queue.Queue(1)  # the newest numbers hold all older ones
        self._thread = threading.Thread(target=self._send_all, name="metrics", daemon=True)
        self._thread.start()

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(_FIRST_SECONDS)
        while True:
            self._hand_over()
            await asyncio.sleep(_EVERY_SECONDS)

    def end(self) -> None:
        """Send the last numbers, if that goes within 1 s."""
        self._hand_over()
        stop = threading.Thread(target=self._to_send.put, args=(None,), daemon=True)
        stop.start()
        self._thread.join(_GOODBYE_SECONDS)
        self._exporter.shutdown(0)

    def _hand_over(self) -> None:
        if not self._to_send.full():
            self._to_send.put(metrics_data(REGISTRY, self._resource, self._began_ns))

    def _send_all(self) -> None:
        while (data := self._to_send.get()) is not None:
            try:
                self._exporter.export(data)
            except Exception:  # noqa: S112 (whatever it is, the next numbers hold these too)
                continue


def metrics_data(registry: CollectorRegistry, resource: Resource, began_ns: int) -> MetricsData:
    """All that is registered, as OTLP has it."""
    now = time.time_ns()
    metrics = [_metric(metric, began_ns, now) for metric in registry.collect()]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _metric(metric: Collected, began_ns: int, now: int) -> Metric:
    data: Sum | Gauge | Histogram
    if metric.type == "histogram":
        data = Histogram(_distributions(metric.samples, began_ns, now), AggregationTemporality.CUMULATIVE)
    elif metric.type == "counter":
        totals = [sample for sample in metric.samples if sample.name.endswith("_total")]
        points = [_number(sample, began_ns, now) for sample in totals]
        data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge([_number(sample, None, now) for sample in metric.samples])
    return Metric(metric.name, metric.documentation, _UNITS.get(unit_of(metric.name), ""), data)


def _number(sample: Sample, began_ns: int | None, now: int) -> NumberDataPoint:
    return NumberDataPoint(dict(sample.labels), began_ns or now, now, sample.value)


def _distributions(samples: Sequence[Sample], began_ns: int, now: int) -> list[HistogramDataPoint]:
    """One for each combination of labels; the registry counts "up to", OTLP counts "between"."""
    by_labels: dict[tuple[tuple[str, str], ...], dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        by_labels[labels][sample.name.rpartition("_")[2]].append(sample)
    points = []
    for labels, parts in by_labels.items():
        buckets = sorted(parts["bucket"], key=lambda bucket: float(bucket.labels["le"]))
        up_to = [0, *(int(bucket.value) for bucket in buckets)]
        points.append(
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=began_ns,
                time_unix_nano=now,
                count=up_to[-1],
                sum=parts["sum"][0].value if parts["sum"] else 0.0,
                bucket_counts=[more - less for less, more in pairwise(up_to)],
                explicit_bounds=[float(bucket.labels["le"]) for bucket in buckets[:-1]],
                min=None,  # type: ignore[arg-type]  # nobody knows them, and the protocol need not
                max=None,  # type: ignore[arg-type]
                exemplars=[_exemplar(bucket) for bucket in buckets if bucket.exemplar],
            )
        )
    return points


def _exemplar(bucket: Sample) -> Exemplar:
    found = bucket.exemplar
    assert found is not None
    trace_id, span_id = (int(found.labels.get(name, "0"), 16) for name in ("trace_id", "span_id"))
    return Exemplar({}, found.value, int(float(found.timestamp or 0) * 1e9), span_id, trace_id)
