"""A line in the log for a share of the requests. Off unless it is asked for: a line costs more than a redirect."""

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from urlshortener.telemetry import LOG, Sampling


class Logged:
    """A Measured application, some of whose requests are logged: with the route, never with the code."""

    def __init__(self, app: ASGIApp, service_name: str, sampling: Sampling) -> None:
        self._app = app
        self._service_name = service_name
        self._sampling = sampling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._sampling.drawn():
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        await self._app(scope, receive, send)
        LOG.info(
            "request",
            extra={
                "service": self._service_name,
                "method": scope["method"],
                "route": scope["route_template"],
                "status": scope["response_status"],
                "milliseconds": round(1000 * (time.perf_counter() - began), 3),
            },
        )
        return None
