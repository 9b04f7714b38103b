"""What is counted, timed and logged of every request, whatever answers it."""

import time
from typing import Any

from fastapi import FastAPI
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from urlshortener.services.caller import header
from urlshortener.services.door import Direct
from urlshortener.services.http import INTERNAL, problem_answer
from urlshortener.telemetry import LOG, REQUEST_SECONDS, REQUESTS, exemplar, said_in_logs

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


_LONGEST_ID = 64


class Measured:
    """An application whose requests are measured; nothing that it raises gets past here.

    An unexpected error is logged once, with its traceback, and answered as a problem without it.
    """

    def __init__(self, app: FastAPI | Direct, service_name: str) -> None:
        self._app = app
        self._service_name = service_name
        self._known_counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        # Few values, however many codes there are.
        self._templates: dict[Any, str] = {
            route.endpoint: route.path for route in app.routes if isinstance(route, Route)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"].endswith("\n"):
            scope["path"] += "\n"  # a route's pattern takes one newline at its end for nothing; two, it does not know
        said_in_logs(lambda: _ids(scope))
        status = 0
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            LOG.error("unexpected_error", exc_info=error, extra=self._words(scope))
            if not status:
                await problem_answer(Request(scope), INTERNAL)(scope, receive, watched)
        finally:
            self._measure(scope, status, time.perf_counter() - started)

    def _words(self, scope: Scope) -> dict[str, Any]:
        return {
            "service": self._service_name,
            "route": self._route(scope),
            "method": scope["method"],
        }

    def _route(self, scope: Scope) -> str:
        return self._templates.get(scope.get("endpoint"), "unmatched")

    def _measure(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope["route_template"] = self._route(scope)  # traced.py tells both
        scope["response_status"] = status
        method = scope["method"] if scope["method"] in METHODS else "other"
        count, times = self._counters(route, method, status)
        count.inc()
        times.observe(seconds, exemplar())

    def _counters(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        """Those of such requests; to ask for them anew each time would cost more than to count."""
        known = self._known_counters.get((route, method, status))
        if known is None:
            known = self._known_counters[route, method, status] = (
                REQUESTS.labels(self._service_name, route, method, str(status)),
                REQUEST_SECONDS.labels(self._service_name, route),
            )
        return known


def _ids(scope: Scope) -> dict[str, str]:
    """What a client, or a proxy, calls this request; its trace stands in the log by itself."""
    given = header(scope, b"x-request-id")
    return {"request_id": given[:_LONGEST_ID]} if given else {}
