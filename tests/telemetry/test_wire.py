"""What is told of goes to a collector as the very message that the SDK would send of it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from urlshortener.telemetry import Told, Value
from urlshortener.telemetry.wire import Messages

_RESOURCE = Resource({"service.name": "shortener-service"}, "https://schema.example/1")
_SCOPE = InstrumentationScope("urlshortener", "", "")

_ids = st.integers(1, 2**64 - 1)
_states = st.sampled_from([None, TraceState([("edge", "1"), ("other", "2")])])
_contexts = st.builds(SpanContext, st.integers(1, 2**128 - 1), _ids, st.booleans(), st.just(TraceFlags(1)), _states)
_values: dict[str, st.SearchStrategy[Value]] = {  # each has values of one type only
    "url.scheme": st.sampled_from(["", "http", "é"]),
    "server.port": st.integers(-(2**63), 2**63 - 1),
    "urlshortener.event.age_seconds": st.floats(0.001),
    "is": st.booleans(),
}
_told = st.builds(
    Told,
    name=st.sampled_from(["GET /{code}", "wait in spool"]),
    kind=st.sampled_from(SpanKind),
    attributes=st.fixed_dictionaries({}, optional=_values),
    has_failed=st.booleans(),
    began_ns=_ids,
    ended_ns=_ids,
    own=_contexts,
    parent=st.none() | _contexts,
    links=st.lists(_contexts, max_size=3),
)


def _readable(told: Told) -> ReadableSpan:
    return ReadableSpan(
        told.name,
        told.own,
        told.parent,
        _RESOURCE,
        told.attributes,
        links=[Link(context) for context in told.links],
        kind=told.kind,
        status=Status(StatusCode.ERROR if told.has_failed else StatusCode.UNSET),
        start_time=told.began_ns,
        end_time=told.ended_ns,
        instrumentation_scope=_SCOPE,
    )


@given(st.lists(_told, min_size=1))
def test_it_is_the_message_of_the_sdk(spans: Sequence[Told]) -> None:
    assert Messages(_RESOURCE, _SCOPE).of(spans) == encode_spans([_readable(span) for span in spans])


def test_spans_that_were_begun_are_in_the_same_message() -> None:
    provider = TracerProvider(resource=_RESOURCE, shutdown_on_exit=False)
    with provider.get_tracer(_SCOPE.name).start_as_current_span("POST /api/v1/urls") as span:
        pass
    assert isinstance(span, ReadableSpan)
    told = Told("wait in spool", SpanKind.INTERNAL, {}, False, 1, 2, span.get_span_context(), None, ())
    message = Messages(_RESOURCE, _SCOPE).of([span, told, span])
    assert message == encode_spans([span, _readable(told), span])
    assert len(message.resource_spans) == len(message.resource_spans[0].scope_spans) == 1


def test_the_exporter_still_asks_for_its_message_where_ours_is_put_in() -> None:
    with pytest.MonkeyPatch.context() as patch:
        asked = []
        patch.setattr(OTLPSpanExporter, "_translate_data", lambda _, data: asked.append(data))
        OTLPSpanExporter("http://127.0.0.1:9", insecure=True, timeout=1).export([])
    assert asked
