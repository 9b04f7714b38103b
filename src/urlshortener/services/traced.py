"""A span for each request, by OpenTelemetry's conventions for HTTP. Only where a collector is set."""

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from urlshortener.services.caller import Proxies, header

_PROPAGATOR = TraceContextTextMapPropagator()


class Traced:
    """A Measured application whose requests are spans. A trusted proxy's trace is continued, nobody else's."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies
        self._tracer = trace.get_tracer("urlshortener")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        with self._tracer.start_as_current_span(scope["method"], self._parent(scope), SpanKind.SERVER) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, watched)
            # The route, never the path: a code names a person's link.
            route = scope["route_template"]
            span.update_name(f"{scope['method']} {route}")
            span.set_attributes({"http.request.method": scope["method"], "http.route": route})
        return None

    def _parent(self, scope: Scope) -> Context | None:
        if not self._proxies.sent(scope):
            return None
        return _PROPAGATOR.extract({"traceparent": header(scope, b"traceparent")})
