"""Spans as the OpenTelemetry protocol has them. Imported only where there is somebody to send them to.

Those that were begun are encoded by the SDK. Those that are told of are of few sorts: the SDK encodes one of each sort,
and what a span has of its own is put into a copy, for a tenth of the price.
tests/telemetry/test_wire.py compares the two.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from opentelemetry.exporter.otlp.proto.common._internal.trace_encoder import _encode_links, _encode_span
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link, SpanKind, Status, StatusCode

from urlshortener.telemetry.traces import Told, Value

Over: TypeAlias = Told | ReadableSpan  # a span that is over: told of, or begun and ended


class Messages:
    """Messages of this process to a collector."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._empty = encode_spans(
            [ReadableSpan("", INVALID_SPAN_CONTEXT, None, resource, instrumentation_scope=scope)]
        )
        del self._empty.resource_spans[0].scope_spans[0].spans[:]

    def of(self, spans: Iterable[Over]) -> ExportTraceServiceRequest:
        message = ExportTraceServiceRequest()
        message.CopyFrom(self._empty)
        encoded = message.resource_spans[0].scope_spans[0].spans
        for span in spans:
            if isinstance(span, Told):
                _put(span, encoded.add())
            else:
                encoded.append(_encode_span(span))
        return message


def _put(told: Told, span: Span) -> None:
    own, parent = told.own, told.parent
    span.CopyFrom(_sort(told.name, told.kind, tuple(told.attributes.items()), told.has_failed))
    span.trace_id = own.trace_id.to_bytes(16, "big")
    span.span_id = own.span_id.to_bytes(8, "big")
    span.start_time_unix_nano = told.began_ns
    span.end_time_unix_nano = told.ended_ns
    if own.trace_state:
        span.trace_state = own.trace_state.to_header()
    if parent is not None:
        span.parent_span_id = parent.span_id.to_bytes(8, "big")
        if parent.is_remote:
            span.flags |= SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    if told.links:
        span.links.extend(_encode_links([Link(link) for link in told.links]))


@lru_cache(256)
def _sort(name: str, kind: SpanKind, attributes: tuple[tuple[str, Value], ...], has_failed: bool) -> Span:
    """All that spans of one sort have in common, with ids that are none. An attribute has values of one type only."""
    status = Status(StatusCode.ERROR if has_failed else StatusCode.UNSET)
    return _encode_span(ReadableSpan(name, INVALID_SPAN_CONTEXT, attributes=dict(attributes), kind=kind, status=status))
