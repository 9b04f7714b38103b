"""Every statement of a request that is traced has a span, also one that fails."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from urlshortener.links.sql_traces import trace_statements
from urlshortener.telemetry import begun, trace_with, within


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace_with(provider.get_tracer("test"))
    yield spans
    trace_with(None)


async def test_a_statement_that_fails_has_a_span_that_says_how(spans: InMemorySpanExporter) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    trace_statements(engine, "sqlite")
    with within(begun("a request", parent=None)):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            with pytest.raises(OperationalError):
                await connection.execute(text("SELECT secret FROM nowhere"))
    await engine.dispose()
    well, failed, _ = spans.get_finished_spans()
    assert well.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.name == "SELECT nowhere"
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "OperationalError"
    assert "secret" not in failed.to_json()
