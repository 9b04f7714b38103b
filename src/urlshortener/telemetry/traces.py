"""Spans: set-up, and the name of every span and attribute."""

from collections.abc import Callable

from opentelemetry import trace


def set_up_traces(endpoint: str, ratio: float, service: str) -> Callable[[], None]:
    """Send spans to an OTLP/gRPC collector from now on; returns what flushes and ends it, within 2 s.

    The caller's decision to trace is followed, else `ratio` decides. A collector that is away costs only spans.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), sampler=ParentBasedTraceIdRatio(ratio)
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=2)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    def end() -> None:
        provider.force_flush(2000)
        provider.shutdown()

    return end
