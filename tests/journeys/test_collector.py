"""Spans and numbers of real services, through the real collector with the manifests' configuration, to a receiver."""

import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.backends.collector import CONFIG, MANIFEST, Collector, binary
from tests.backends.otlp import OtlpReceiver
from tests.backends.waiting import wait_until
from tests.journeys.systems import System, all_in_one
from tests.journeys.test_the_road import made

_CLICKS_PER_SECOND = 100
_LOAD_SECONDS = 5.0
_AWAY_SECONDS = (1.0, 3.0)


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

    scraped = collector.metrics()
    assert "events_counted_total{" in scraped
    assert "http_request_duration_seconds_bucket{" in scraped
    assert "otelcol_exporter_sent_spans" in collector.own_metrics()


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
