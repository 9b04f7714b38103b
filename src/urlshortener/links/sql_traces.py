"""A span for each statement of a request that is traced."""

import time
from typing import Any

from sqlalchemy import ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncEngine

from urlshortener.telemetry import current, is_tracing, statement_told


def trace_statements(engine: AsyncEngine, system: str) -> None:
    """Have every statement told of that goes through the engine; does nothing where nobody listens."""
    if not is_tracing():
        return

    def before(_: Any, __: Any, ___: Any, ____: Any, execution: Any, _____: Any) -> None:
        execution.began = time.perf_counter() if current() is not None else None

    def after(_: Any, __: Any, statement: str, ____: Any, execution: Any, _____: Any) -> None:
        if execution.began is not None:
            statement_told(system, statement, time.perf_counter() - execution.began)

    def not_done(failure: ExceptionContext) -> None:
        began = getattr(failure.execution_context, "began", None)
        if began is not None and failure.statement is not None:
            error = failure.original_exception
            statement_told(system, failure.statement, time.perf_counter() - began, error)

    event.listen(engine.sync_engine, "before_cursor_execute", before)
    event.listen(engine.sync_engine, "handle_error", not_done)
    event.listen(engine.sync_engine, "after_cursor_execute", after)
