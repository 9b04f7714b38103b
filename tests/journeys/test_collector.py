"""Spans and numbers of real services, through the real collector with the manifests' configuration, to a receiver."""

import random
import subprocess
import threading
import time
from collections.abc import Iterator

import grpc  # type: ignore[import-untyped]
import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.backends.collector import CONFIG, MANIFEST, ROOT, Collector, binary
from tests.backends.otlp import OtlpReceiver
from tests.backends.waiting import wait_until
from tests.journeys.systems import System, all_in_one
from tests.journeys.test_the_road import made

_CLICKS_PER_SECOND = 100
_LOAD_SECONDS = 5.0
_AWAY_SECONDS = (1.0, 3.0)

# What docs/operations.md and docs/high-availability.md promise.
_BATCH, _BATCHES, _BATCH_SECONDS = 512, 200, 3
_IN_HAND = 10  # batches that are being tried, beside those in the queue


def test_what_is_built_has_the_components_that_the_configuration_names() -> None:
    config, manifest = yaml.safe_load(CONFIG.read_text()), yaml.safe_load(MANIFEST.read_text())
    for kind in ("receivers", "processors", "exporters", "extensions"):
        built = " ".join(part["gomod"] for part in manifest[kind])
        for name in config[kind]:
            assert f"/{name.partition('/')[0].replace('_', '')}{kind[:-1]} " in built


def test_the_collector_takes_the_configuration_of_the_manifests() -> None:
    done = subprocess.run([binary(), "validate", f"--config={CONFIG}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def collector(receiver: OtlpReceiver) -> Iterator[Collector]:
    with Collector(receiver.port) as collector:
        collector.start()
        yield collector


@pytest.fixture
def system(collector: Collector) -> Iterator[System]:
    system = all_in_one({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_TRACES_SAMPLER_ARG": "1"})
    try:
        system.start()
        yield system
    finally:
        system.close()


def test_no_span_is_missing_after_the_receiver_was_away_under_load(
    receiver: OtlpReceiver, collector: Collector, system: System
) -> None:
    """The specification's "Trace Data: Jaeger restart, none"."""
    code = made(system)
    away = threading.Thread(target=_restart, args=(receiver,))
    away.start()
    clicks = _follow(f"{system.shortener}/{code}")
    away.join()
    system.shortener_process.stop()  # it sends its last spans and numbers
    wait_until(lambda: len(_redirects(receiver)) >= clicks, "every span arrives", within_seconds=30)
    assert len(_redirects(receiver)) == clicks
    assert len({span.trace for span in receiver.named("count access event")}) == clicks
    taken = collector.own_metrics()["otelcol_receiver_accepted_spans"]
    assert taken >= 4 * clicks, "of each click a redirect, its spooling, its waiting, its counting"
    wait_until(
        lambda: len({span.id for span in receiver.spans}) >= taken, "every other span arrives", within_seconds=30
    )
    assert len({span.id for span in receiver.spans}) == taken

    scraped = collector.metrics()
    lost = [line for line in scraped.splitlines() if line.startswith("spans_lost_total{")]
    assert [float(line.rpartition(" ")[2]) for line in lost] == [0]
    assert "events_counted_total{" in scraped
    assert "http_request_duration_seconds_bucket{" in scraped
    assert collector.own_metrics()["otelcol_exporter_sent_spans"] >= clicks


def test_the_pages_state_the_bound_that_the_configuration_sets() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    exporter, batch = config["exporters"]["otlp/jaeger"], config["processors"]["batch"]
    assert exporter["sending_queue"]["queue_size"] == _BATCHES
    assert batch == {"timeout": f"{_BATCH_SECONDS}s", "send_batch_size": _BATCH, "send_batch_max_size": _BATCH}
    assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", "the queue alone is the bound"
    spans, minutes = f"{_BATCHES * _BATCH:,} spans", f"{_BATCHES * _BATCH_SECONDS // 60} minutes"
    for page in ("docs/operations.md", "docs/high-availability.md", CONFIG.relative_to(ROOT)):
        text = " ".join((ROOT / page).read_text().split())
        assert f"{spans} or {minutes}" in text


def test_over_its_bound_the_collector_drops_and_says_so_and_all_else_arrives(
    receiver: OtlpReceiver, collector: Collector
) -> None:
    receiver.stop()
    sent = (_BATCHES + _IN_HAND + 20) * _BATCH
    _send(collector, sent)

    def dropped() -> int:
        return int(collector.own_metrics().get("otelcol_exporter_enqueue_failed_spans", 0))

    wait_until(lambda: dropped() > 0, "it says that it drops", within_seconds=10)
    assert _BATCHES * _BATCH <= sent - dropped() <= (_BATCHES + _IN_HAND) * _BATCH
    assert collector.own_metrics()["otelcol_exporter_queue_size"] == _BATCHES
    receiver.start()
    wait_until(lambda: len(receiver.spans) >= sent - dropped(), "what it kept arrives", within_seconds=60)
    assert len({span.id for span in receiver.spans}) == len(receiver.spans) == sent - dropped()


def test_a_few_spans_a_second_fill_the_queue_by_a_batch_in_three_seconds(
    receiver: OtlpReceiver, collector: Collector
) -> None:
    """So that 200 of them last for ten minutes."""
    began = time.monotonic()
    for _ in range(30):
        _send(collector, 1)
        time.sleep(0.25)
    most = 1 + (time.monotonic() - began) / _BATCH_SECONDS
    wait_until(lambda: len(receiver.spans) == 30, "all arrive", within_seconds=10)
    assert collector.own_metrics()["otelcol_processor_batch_timeout_trigger_send"] <= most


def _send(collector: Collector, count: int) -> None:
    """So many spans as ours, in messages as ours, from a service that does not wait."""
    value = AnyValue(string_value="a value as long as most of ours")
    attributes = [KeyValue(key=f"an.attribute.of.{number}", value=value) for number in range(7)]
    with grpc.insecure_channel(f"127.0.0.1:{collector.port}") as channel:
        stub = trace_service_pb2_grpc.TraceServiceStub(channel)  # type: ignore[no-untyped-call]
        for start in range(0, count, _BATCH):
            spans = [
                Span(
                    trace_id=random.randbytes(16),
                    span_id=random.randbytes(8),
                    name="GET /{code}",
                    attributes=attributes,
                )
                for _ in range(min(_BATCH, count - start))
            ]
            stub.Export(
                ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
            )


def _ids(receiver: OtlpReceiver) -> set[str]:
    return {span.id for span in receiver.spans}


def _redirects(receiver: OtlpReceiver) -> set[str]:
    return {span.id for span in receiver.named("GET /{code}")}


def _restart(receiver: OtlpReceiver) -> None:
    leaves, returns = _AWAY_SECONDS
    time.sleep(leaves)
    receiver.stop()
    time.sleep(returns - leaves)
    receiver.start()


def _follow(url: str) -> int:
    """Follow the link at a steady rate for a while; returns how often."""
    clicks, began = 0, time.monotonic()
    with httpx.Client() as client:
        while (now := time.monotonic()) < began + _LOAD_SECONDS:
            assert client.get(url).status_code == 307
            clicks += 1
            time.sleep(max(0.0, began + clicks / _CLICKS_PER_SECOND - now))
    return clicks
