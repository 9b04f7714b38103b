"""What both main doors have: the framework without its own pages, probes, documents, and a front page."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from urlshortener.errors import UrlShortenerError
from urlshortener.links.code import could_be_a_link
from urlshortener.services import http, openapi, pages

# Short links may be followed by anyone, previews of chat programs too; there is nothing else to read here.
_ROBOTS = "User-agent: *\nDisallow: /api/\n"

_FOLLOWING = ("GET", "HEAD")


def new() -> FastAPI:
    """An application without routes, whose every error is a problem."""
    return FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=http.HANDLERS,
        generate_unique_id_function=lambda route: route.name,
        # Its own spans would hold paths, and so codes, and continue anybody's trace; ours are in services/traced.py.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )


class Direct:
    """An application, some of whose routes are asked without the framework's long way to them: redirects and creates.

    `by_path` has those for one method and one whole path, `redirects` follows every code that is no page's path. What
    they refuse is answered as it would be there. They are routes of the application too, the last one of them for
    whatever words nothing else is for, so that it knows which methods a path takes.
    """

    def __init__(self, app: FastAPI, by_path: Mapping[tuple[str, str], ASGIApp], redirects: ASGIApp) -> None:
        self._app = app
        self._by_path = by_path
        self._redirects = redirects
        app.router.routes[:0] = [Route(path, route, methods=[method]) for (method, path), route in by_path.items()]
        app.router.routes.append(Route("/{code}", redirects, methods=_FOLLOWING))
        self.routes = app.routes
        self._pages = frozenset(route.path for route in app.routes if isinstance(route, Route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope["method"], scope["path"])
        if route is None:
            return await self._app(scope, receive, send)
        scope["endpoint"] = route
        try:
            await route(scope, receive, send)
        except UrlShortenerError as error:
            await http.problem_answer(Request(scope), http.problem_of(error))(scope, receive, send)
        except ClientDisconnect:
            await http.nobody_reads()(scope, receive, send)

    def _route(self, method: str, path: str) -> ASGIApp | None:
        if method in _FOLLOWING and path[:1] == "/" and could_be_a_link(path[1:]) and path not in self._pages:
            return self._redirects
        return self._by_path.get((method, path))


def add_probes(app: FastAPI, service_name: str, readiness: http.Readiness) -> None:
    """/health and /ready, on the main door too; HEAD as well, for balancers that ask so."""

    async def health() -> Response:
        return http.health_answer(service_name)

    async def ready() -> Response:
        return http.ready_answer(service_name, readiness)

    lives = {"status": "ok", "service_name": service_name}
    wants = {"status": "ready", "service_name": service_name, "dependencies": {"links": "up"}}
    described = {
        "health": openapi.answers(200, "The process lives; nothing else is asked.", openapi.Health, lives),
        "ready": openapi.answers(200, "It wants visitors.", openapi.Readiness, wants)
        | {
            503: {
                "description": "It is starting or draining.",
                "content": {
                    "application/json": {
                        "schema": openapi.ref(openapi.Readiness),
                        "example": wants | {"status": "not ready"},
                    }
                },
            }
        },
    }
    for path, handler, summary in (("/health", health, "Does it live?"), ("/ready", ready, "Does it want visitors?")):
        app.add_api_route(
            path, handler, methods=["GET"], summary=summary, response_class=Response, responses=described[path[1:]]
        )
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False, response_class=Response)


def add_documents(app: FastAPI, made: Mapping[str, Any], below: str = "") -> None:
    """The OpenAPI document at /openapi.json and its reading page at /docs; the same below a prefix."""
    as_json = msgspec.json.encode(made)
    html = openapi.reading_page(made)

    async def document(_: Request) -> Response:
        return Response(as_json, media_type="application/json")

    async def docs(_: Request) -> Response:
        return pages.page(html)

    for prefix in {"", below}:  # before all others: below the prefix a code would match too
        app.router.routes.insert(0, Route(f"{prefix}/openapi.json", document, include_in_schema=False))
        app.router.routes.insert(0, Route(f"{prefix}/docs", docs, include_in_schema=False))


def add_front_page(app: FastAPI, service_name: str, title: str, words: str) -> None:
    """`/`: a page for people, where to read on for programs; and what browsers and crawlers ask of every host."""
    html = pages.front_page(title, words)

    async def front(request: Request) -> Response:
        if pages.wants_page(request.headers.getlist("accept")):
            return pages.page(html)
        return http.json_answer({"service_name": service_name, "docs": "/docs", "openapi": "/openapi.json"})

    async def robots(_: Request) -> Response:
        return PlainTextResponse(_ROBOTS)

    async def favicon(_: Request) -> Response:
        return Response(status_code=204, headers={"Cache-Control": "public, max-age=86400"})

    for path, answer in (("/", front), ("/robots.txt", robots), ("/favicon.ico", favicon)):
        app.router.add_route(path, answer, include_in_schema=False)
