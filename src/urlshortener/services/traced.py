"""A span for each request that is traced, by OpenTelemetry's conventions for HTTP. Only where a collector is set."""

import time
from typing import NamedTuple

from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Receive, Scope, Send

from urlshortener.services.caller import Proxies, header
from urlshortener.services.measured import METHODS
from urlshortener.telemetry import KEPT_BECAUSE, Sampling, Value, begun, context_of, told, within

SLOW_SECONDS = 1.0
_MOST_KEPT_PER_SECOND = 10  # of those that were not sampled: an outage is told by a few as well as by all


class Answered(NamedTuple):
    """What a span tells of a request and its answer. The route, never the path: a code names a person's link."""

    method: str
    route: str
    status: int
    scheme: str
    version: str
    port: int

    @property
    def name(self) -> str:
        return f"{_name_of(self.method)} {self.route}"

    @property
    def attributes(self) -> dict[str, Value]:
        attributes: dict[str, Value] = {
            "http.request.method": self.method if self.method in METHODS else "_OTHER",
            "http.route": self.route,
            "url.scheme": self.scheme,
            "network.protocol.version": self.version,
            "server.port": self.port,
        }
        if self.status:
            attributes["http.response.status_code"] = self.status
        if self.has_failed:
            attributes["error.type"] = str(self.status)
        return attributes

    @property
    def has_failed(self) -> bool:
        return self.status >= 500


def _name_of(method: str) -> str:
    return method if method in METHODS else "HTTP"


class Tracing:
    """Which requests are spans, whichever way they take.

    Those of a trusted proxy's trace, as it says (nobody else's is continued); of the others a share. Those that
    were not sampled, and then failed or took a second, are told of afterwards, in a span without details.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._kept_in_second = (0, 0)

    def is_wanted(self, parent: SpanContext | None) -> bool:
        if parent is not None:
            return parent.trace_flags.sampled
        return self._sampling.drawn()

    def is_turn_wanted(self) -> bool:
        """Whether all that are answered together are wanted, of those that nobody decided about."""
        return self._sampling.drawn()

    def tell_of(self, answered: Answered, parent: SpanContext | None, began_ns: int, ended_ns: int) -> None:
        """It was not sampled, and is over: tell of it if it must not be missed."""
        is_slow = ended_ns - began_ns > SLOW_SECONDS * 1e9
        if not (answered.has_failed or is_slow) or not self._may_keep(ended_ns):
            return
        attributes = answered.attributes | {KEPT_BECAUSE: "failed" if answered.has_failed else "slow"}
        kind, has_failed = SpanKind.SERVER, answered.has_failed
        told(answered.name, began_ns, ended_ns, kind, attributes, parent=parent, has_failed=has_failed)

    def _may_keep(self, now_ns: int) -> bool:
        second, kept = self._kept_in_second
        kept = kept + 1 if second == now_ns // 1_000_000_000 else 1
        self._kept_in_second = now_ns // 1_000_000_000, kept
        return kept <= _MOST_KEPT_PER_SECOND


class Traced:
    """A Measured application, some of whose requests are spans."""

    def __init__(self, app: ASGIApp, proxies: Proxies, tracing: Tracing) -> None:
        self._app = app
        self._proxies = proxies
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        parent = self._parent(scope)
        if not self._tracing.is_wanted(parent):
            began_ns = time.time_ns()
            await self._app(scope, receive, send)
            return self._tracing.tell_of(_answered(scope), parent, began_ns, time.time_ns())
        with within(begun(_name_of(scope["method"]), SpanKind.SERVER, parent=parent)) as span:
            await self._app(scope, receive, send)
            answered = _answered(scope)
            span.update_name(answered.name)
            span.set_attributes(answered.attributes)
            if answered.has_failed:
                span.set_status(Status(StatusCode.ERROR))
        return None

    def _parent(self, scope: Scope) -> SpanContext | None:
        traceparent = header(scope, b"traceparent")
        if not traceparent or not self._proxies.sent(scope):
            return None
        return context_of(traceparent, header(scope, b"tracestate"))


def _answered(scope: Scope) -> Answered:
    return Answered(
        scope["method"],
        scope["route_template"],
        scope["response_status"],
        scope["scheme"],
        scope["http_version"],
        (scope.get("server") or ("", 0))[1],
    )
