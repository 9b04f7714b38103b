"""Every statement of a request that is traced has a span, also one that fails."""

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.backends.kept_spans import spans_kept
from urlshortener.links.sql_traces import trace_statements
from urlshortener.telemetry import begun, within


async def test_a_statement_that_fails_has_a_span_that_says_how() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with spans_kept() as spans:
        trace_statements(engine, "sqlite")
        with within(begun("a request", parent=None)):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                with pytest.raises(OperationalError):
                    await connection.execute(text("SELECT secret FROM nowhere"))
        await engine.dispose()
        well, failed, _ = spans.sent
    assert well.span.status.code == Status.STATUS_CODE_UNSET
    assert failed.span.status.code == Status.STATUS_CODE_ERROR
    assert failed.name == "SELECT nowhere"
    assert failed.attributes["error.type"] == "OperationalError"
    assert b"secret" not in failed.span.SerializeToString()
