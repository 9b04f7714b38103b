"""A span for each request that is traced, by OpenTelemetry's conventions for HTTP. Only where a collector is set."""

import time

from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Receive, Scope, Send

from urlshortener.services.caller import Proxies, header
from urlshortener.services.measured import METHODS
from urlshortener.telemetry import KEPT_BECAUSE, Sampling, begun, context_of, within

_SLOW_SECONDS = 1.0
_MOST_KEPT_PER_SECOND = 10  # of those that were not sampled: an outage is told by a few as well as by all


class Traced:
    """A Measured application, some of whose requests are spans.

    Which: those of a trusted proxy's trace, as it says (nobody else's is continued); of the others a share. Those that
    were not sampled, and then failed or took a second, are told of afterwards, in a span without details.
    """

    def __init__(self, app: ASGIApp, proxies: Proxies, sampling: Sampling) -> None:
        self._app = app
        self._proxies = proxies
        self._sampling = sampling
        self._kept_in_second = (0, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        parent = self._parent(scope)
        if not self._is_wanted(parent):
            return await self._watched(scope, receive, send, parent)
        with within(begun(_method(scope), SpanKind.SERVER, parent=parent)) as span:
            await self._app(scope, receive, send)
            # The route, never the path: a code names a person's link.
            span.update_name(f"{_method(scope)} {scope['route_template']}")
            span.set_attributes(_attributes(scope))
            if scope["response_status"] >= 500:
                span.set_status(Status(StatusCode.ERROR))
        return None

    async def _watched(self, scope: Scope, receive: Receive, send: Send, parent: SpanContext | None) -> None:
        began_ns = time.time_ns()
        await self._app(scope, receive, send)
        ended_ns = time.time_ns()
        failed = scope["response_status"] >= 500
        if (failed or ended_ns - began_ns > _SLOW_SECONDS * 1e9) and self._may_keep(ended_ns):
            name = f"{_method(scope)} {scope['route_template']}"
            attributes = _attributes(scope) | {KEPT_BECAUSE: "failed" if failed else "slow"}
            span = begun(name, SpanKind.SERVER, attributes, parent=parent, at_ns=began_ns)
            if failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end(ended_ns)

    def _may_keep(self, now_ns: int) -> bool:
        second, kept = self._kept_in_second
        kept = kept + 1 if second == now_ns // 1_000_000_000 else 1
        self._kept_in_second = now_ns // 1_000_000_000, kept
        return kept <= _MOST_KEPT_PER_SECOND

    def _is_wanted(self, parent: SpanContext | None) -> bool:
        if parent is not None:
            return parent.trace_flags.sampled
        return self._sampling.drawn()

    def _parent(self, scope: Scope) -> SpanContext | None:
        traceparent = header(scope, b"traceparent")
        if not traceparent or not self._proxies.sent(scope):
            return None
        return context_of(traceparent, header(scope, b"tracestate"))


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "HTTP"


def _attributes(scope: Scope) -> dict[str, str | bool | int | float]:
    status = scope["response_status"]
    attributes: dict[str, str | bool | int | float] = {
        "http.request.method": scope["method"] if scope["method"] in METHODS else "_OTHER",
        "http.route": scope["route_template"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "server.port": (scope.get("server") or ("", 0))[1],
    }
    if status:
        attributes["http.response.status_code"] = status
    if status >= 500:
        attributes["error.type"] = str(status)
    return attributes
