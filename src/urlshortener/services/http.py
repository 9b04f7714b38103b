"""For every door: errors as problem+json, health and readiness, and the second port.

One table says which error is which status. Whatever goes wrong, the framework's own refusals included, leaves as a
Problem (RFC 9457): for programs as JSON, for a browser outside of /api/ as a plain page.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Send

from urlshortener import errors
from urlshortener.errors import Refused, Unavailable, UrlShortenerError
from urlshortener.services import pages
from urlshortener.telemetry import READY, REGISTRY

PROBLEM_TYPE = "application/problem+json"
PROBLEM_ABOUT = "about:blank"  # the title is the status' own phrase; what tells problems apart is the code


class NotJson(errors.InvalidBody):
    """The body is not JSON at all; with the wrong fields in it, it is an InvalidBody."""


class BodyTooLarge(Refused):
    code = "BODY_TOO_LARGE"


class UnsupportedMediaType(Refused):
    code = "UNSUPPORTED_MEDIA_TYPE"


class Unauthorized(Refused):
    code = "UNAUTHORIZED"


class InvalidHost(Refused):
    code = "INVALID_HOST"


_STATUS: dict[type[UrlShortenerError], int] = {
    NotJson: 400,
    InvalidHost: 400,
    Unauthorized: 401,
    errors.NotFound: 404,
    errors.CodeTaken: 409,
    errors.Gone: 410,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    Refused: 422,
    Unavailable: 503,
    UrlShortenerError: 500,
}

# What the framework refuses by itself.
_WORDS = {
    404: ("NOT_FOUND", "There is nothing at this address."),
    405: ("METHOD_NOT_ALLOWED", "This address does not take that method."),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, in words that a stranger may read."""

    status: int
    code: str
    detail: str
    field: str | None = None  # which part of the request is meant, where one is
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    def as_json(self) -> bytes:
        words: dict[str, Any] = {
            "type": PROBLEM_ABOUT,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field is not None:
            words["field"] = self.field
        return msgspec.json.encode(words)


_CLIENT_LEFT = 499

# A code that is free now is a link after the next request: whoever keeps answers must not keep these.
_NOT_KEPT = {"Cache-Control": "no-store"}

INTERNAL = Problem(500, "INTERNAL", "Something went wrong here. It was logged.")


def problem_body(status: int, code: str, detail: str) -> tuple[str, bytes]:
    """The reason phrase and the body of a problem, for those who write responses by hand."""
    problem = Problem(status, code, detail)
    return problem.title, problem.as_json()


def problem_of(error: UrlShortenerError) -> Problem:
    """The one way from an error to an answer."""
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    if status == 500:
        return INTERNAL
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    detail = error.detail or "This is not possible at the moment."
    return Problem(status, error.code, detail, getattr(error, "field", None), headers)


def problem_answer(request: Request, problem: Problem) -> Response:
    """The problem as the one who asked can read it."""
    if not request.scope["path"].startswith("/api/") and pages.wants_page(request.headers.getlist("accept")):
        return pages.page(pages.problem_page(problem.status), problem.status, {**_NOT_KEPT, **problem.headers})
    return Response(problem.as_json(), problem.status, {**_NOT_KEPT, **problem.headers}, PROBLEM_TYPE)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, UrlShortenerError)
    return problem_answer(request, problem_of(error))


async def _frameworks(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = _WORDS.get(error.status_code, ("REFUSED", "The request cannot be done as it stands."))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem_answer(request, Problem(error.status_code, code, detail, headers=headers))


async def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, name = first["loc"][0], str(first["loc"][-1])
    name = name.title() if place == "header" else name
    reason = _REASONS.get(first["type"], "it is not acceptable.").format(**first.get("ctx", {}))
    return problem_answer(request, problem_of(errors.InvalidParameter(f"{name}: {reason}", name)))


_REASONS = {
    "greater_than_equal": "at least {ge} is wanted.",
    "less_than_equal": "at most {le} is wanted.",
    "int_parsing": "a whole number is wanted.",
    "int_parsing_size": "a whole number is wanted.",
    "string_too_short": "it is too short.",
    "string_too_long": "it is too long.",
    "string_pattern_mismatch": "it has characters that are not acceptable.",
    "literal_error": "{expected} is wanted.",
    "missing": "it is missing.",
}


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem_answer(request, INTERNAL)  # services/measured.py logs it, once


async def _left(request: Request, error: Exception) -> Response:
    return nobody_reads()


def nobody_reads() -> Response:
    """For one who left: the metrics show it, under the number that nginx uses."""
    return Response(status_code=_CLIENT_LEFT)


HANDLERS: dict[Any, Callable[[Request, Exception], Any]] = {
    UrlShortenerError: _ours,
    HTTPException: _frameworks,
    RequestValidationError: _parameters,
    ClientDisconnect: _left,
    Exception: _unexpected,
}


def _allowed(request: Request) -> list[str]:
    """All methods of all routes at this path: the framework knows only of the first that matched."""
    methods: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Compact JSON, which no cache keeps; times in UTC end with Z."""
    return Response(msgspec.json.encode(value), status, {**_NOT_KEPT, **(headers or {})}, "application/json")


async def send_json(send: Send, status: int, value: object, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """The same for a POST, whose answer no cache keeps anyhow, written by hand: the framework is not on the way."""
    body = msgspec.json.encode(value)
    about_body = ((b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *about_body]})
    await send({"type": "http.response.body", "body": body})


class Readiness:
    """Whether a service wants visitors: from its first successful start until it drains.

    `words` has a function for each dependency that says in one word how it is. They inform, and take nothing out: were
    readiness to follow a dependency, its outage would take every replica out at once, redirects of known links too.
    """

    def __init__(self, words: Mapping[str, Callable[[], str]] | None = None) -> None:
        self.words: dict[str, Callable[[], str]] = dict(words or {})
        self.is_ready = False

    def ready(self) -> None:
        self.is_ready = True

    def draining(self) -> None:
        self.is_ready = False

    def dependencies(self) -> dict[str, str]:
        return {name: word() for name, word in self.words.items()}


def health_answer(service_name: str) -> Response:
    """The process lives; nothing else is asked."""
    return json_answer({"status": "ok", "service_name": service_name})


def ready_answer(service_name: str, readiness: Readiness) -> Response:
    status = "ready" if readiness.is_ready else "not ready"
    words = {"status": status, "service_name": service_name, "dependencies": readiness.dependencies()}
    return json_answer(words, 200) if readiness.is_ready else json_answer(words, 503, {"Retry-After": "1"})


def ops_app(service_name: str, readiness: Readiness, numbers: CollectorRegistry = REGISTRY) -> ASGIApp:
    """The second port: probes and metrics, which no visitor reaches."""
    READY.labels(service_name).set_function(lambda: readiness.is_ready)

    async def health(_: Request) -> Response:
        return health_answer(service_name)

    async def ready(_: Request) -> Response:
        return ready_answer(service_name, readiness)

    async def metrics(request: Request) -> Response:
        """As whoever asks can read it: exemplars exist in the OpenMetrics format only."""
        render, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(render(numbers), headers={"Content-Type": content_type})

    routes = [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    return app
