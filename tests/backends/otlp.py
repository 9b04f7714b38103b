"""An OTLP/gRPC receiver in this process, which keeps what it gets and may be stopped and started again."""

import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.backends.ports import free_port

_LARGEST_MESSAGE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span, and the service that it came from."""

    span: Span
    service: str

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return _values(self.span.attributes)

    @property
    def links(self) -> set[str]:
        return {link.span_id.hex() for link in self.span.links}

    @property
    def milliseconds(self) -> float:
        return (self.span.end_time_unix_nano - self.span.start_time_unix_nano) / 1e6


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")


class OtlpReceiver:
    """Keeps spans and metrics. `answers_after_seconds` makes it slow: each export waits for so long."""

    def __init__(self) -> None:
        self.port = free_port()
        self.spans: list[ReceivedSpan] = []
        self.metrics: dict[str, Metric] = {}
        self.answers_after_seconds = 0.0
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _LARGEST_MESSAGE)]
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self), self._server)  # type: ignore[no-untyped-call]
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(self), self._server)  # type: ignore[no-untyped-call]
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait(5)
            self._server = None

    def of(self, trace: str) -> list[ReceivedSpan]:
        return [span for span in list(self.spans) if span.trace == trace]

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in list(self.spans) if span.name == name]


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(  # noqa: N802 (the protocol's name)
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        time.sleep(self._receiver.answers_after_seconds)
        for of_resource in request.resource_spans:
            service = _values(of_resource.resource.attributes).get("service.name", "")
            for of_scope in of_resource.scope_spans:
                self._receiver.spans += [ReceivedSpan(span, service) for span in of_scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(  # noqa: N802 (the protocol's name)
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        for of_resource in request.resource_metrics:
            for of_scope in of_resource.scope_metrics:
                self._receiver.metrics |= {metric.name: metric for metric in of_scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


def tree(spans: Iterable[ReceivedSpan]) -> str:
    """The spans of a trace, each below its parent, with when it began and how long it took."""
    spans = sorted(spans, key=lambda span: span.span.start_time_unix_nano)
    here = {span.id for span in spans}
    below: dict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in spans:
        below[span.parent if span.parent in here else ""].append(span)
    began = spans[0].span.start_time_unix_nano
    lines = [f"{'begins':>10} {'takes':>10}"]

    def draw(parent: str, depth: int) -> None:
        for span in below[parent]:
            after = (span.span.start_time_unix_nano - began) / 1e6
            times = f"{after:7.2f} ms {span.milliseconds:7.2f} ms"
            lines.append(f"{times}  {'  ' * depth}{span.name:{44 - 2 * depth}} {span.service}")
            draw(span.id, depth + 1)

    draw("", 0)
    return "\n".join(lines)
