"""The spans that this process makes, kept instead of sent."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tests.backends.otlp import ReceivedSpan
from urlshortener.telemetry import trace_with
from urlshortener.telemetry.wire import Messages, Over


class KeptSpans(SpanProcessor):
    """Spans that are over, and as a collector would get them."""

    def __init__(self) -> None:
        self._over: list[Over] = []

    def on_end(self, span: Over) -> None:
        self._over.append(span)

    @property
    def sent(self) -> list[ReceivedSpan]:
        message = Messages(Resource({}), InstrumentationScope("test")).of(self._over)
        return [ReceivedSpan(span, "") for span in message.resource_spans[0].scope_spans[0].spans]


@contextmanager
def spans_kept() -> Iterator[KeptSpans]:
    kept = KeptSpans()
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(kept)
    trace_with(provider.get_tracer("test"), kept.on_end)
    try:
        yield kept
    finally:
        trace_with(None)
