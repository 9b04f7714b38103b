"""Spans of requests arrive at an OTLP/gRPC receiver, and one that is away costs nothing but the spans."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc  # type: ignore[import-untyped]
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.backends.ports import free_port
from tests.backends.waiting import wait_until
from tests.journeys.systems import System, all_in_one
from tests.journeys.test_the_road import made


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that keeps what it gets."""

    def __init__(self) -> None:
        self.port = free_port()
        self.spans: list[Span] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")

    def Export(  # noqa: N802 (the protocol's name)
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for of_resource in request.resource_spans:
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait(5)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.stop()


@pytest.fixture
def traced(receiver: Receiver) -> Iterator[System]:
    system = all_in_one(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_TRACES_SAMPLER_ARG": "1",
            "TRUSTED_PROXIES": "127.0.0.1/32",
        }
    )
    try:
        system.start()
        yield system
    finally:
        system.close()


def test_a_redirect_continues_the_trace_of_a_trusted_proxy(receiver: Receiver, traced: System) -> None:
    receiver.start()
    code = made(traced, "https://example.com/?secret=1")
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    httpx.get(f"{traced.shortener}/{code}", headers={"traceparent": f"00-{trace_id}-{parent}-01"})

    def redirect() -> Span | None:
        return next((span for span in receiver.spans if span.name == "GET /{code}"), None)

    wait_until(lambda: redirect() is not None, "the span of the redirect arrives", within_seconds=20)
    span = redirect()
    assert span is not None
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, parent)
    attributes = {attribute.key: attribute.value for attribute in span.attributes}
    assert attributes["http.response.status_code"].int_value == 307
    assert attributes["http.route"].string_value == "/{code}"
    assert code not in str(span)
    assert "secret" not in str(span)


def test_a_collector_that_is_away_delays_no_redirect_and_no_stop(traced: System) -> None:
    code = made(traced)
    began = time.monotonic()
    for _ in range(50):
        assert httpx.get(f"{traced.shortener}/{code}").status_code == 307
    assert time.monotonic() - began < 10
    traced.shortener_process.stop()
