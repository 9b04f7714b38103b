"""The shortener's door: create, change and follow links."""

import base64
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from urlshortener.errors import InvalidBody, InvalidParameter, NotFound
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links.code import could_be_a_link
from urlshortener.links.directory import Directory
from urlshortener.links.link import UNCHANGED, Change, Link, Unchanged
from urlshortener.links.store import PageMark
from urlshortener.links.target import normalised
from urlshortener.services import bodies, creates, door, openapi
from urlshortener.services.caller import Guard, Network, Proxies
from urlshortener.services.http import Readiness, json_answer
from urlshortener.services.link_json import (
    EXAMPLE,
    LinkChange,
    LinkPage,
    NewAddress,
    NewLink,
    ShownLink,
    shown,
    to_come,
)
from urlshortener.services.measured import Measured
from urlshortener.services.redirect import Redirects

SERVICE_NAME = "shortener-service"

_TITLE = "URL shortener"
_WORDS = (
    "Short links: create them, change them, follow them. Every error is a problem (RFC 9457) with a stable code; "
    "times are RFC 3339 in UTC."
)

_MARK = "AAa6HvYLiAALj5w-bwpMfp9DDS8fb1oR"  # as `_cursor` makes them

_REDIRECT_PATH = {
    "get": {
        "operationId": "follow",
        "summary": "Follow a link",
        "description": "Every GET is counted, HEAD is not. For browsers the problems are plain pages.",
        "parameters": [
            {"name": "code", "in": "path", "required": True, "description": "The code.", "schema": {"type": "string"}}
        ],
        "responses": {
            str(status): answer
            for status, answer in openapi.answers(
                307, "To the address that was kept.", None, None, 404, 410, 503
            ).items()
        },
    }
}


class _Links:
    """The management routes, below /api/v1/urls."""

    def __init__(self, directory: Directory, proxies: Proxies, public_url: str, now: Callable[[], datetime]) -> None:
        self._directory = directory
        self._proxies = proxies
        self._public_url = public_url
        self._now = now

    async def page(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100, description="How many links at most.")] = 20,
        cursor: Annotated[str | None, Query(description="The next_cursor of the page before.")] = None,
    ) -> Response:
        origin = self._origin(request)
        after = None if cursor is None else _mark(cursor)
        links = await self._directory.page(limit + 1, after)  # one more tells whether another page follows
        items = [shown(link, origin) for link in links[:limit]]
        return json_answer(LinkPage(items, _cursor(links[limit - 1]) if len(links) > limit else None))

    async def read(self, request: Request, code: str) -> Response:
        origin = self._origin(request)
        link = await self._directory.find(code) if could_be_a_link(code) else None
        if link is None:
            raise NotFound("No link has this code.")
        return json_answer(shown(link, origin))

    async def replace(self, request: Request, code: str) -> Response:
        wanted = await bodies.read(request, NewAddress)
        return await self._changed(request, code, Change(target=normalised(wanted.url)))

    async def change(self, request: Request, code: str) -> Response:
        wanted = await bodies.read(request, LinkChange)
        return await self._changed(request, code, _change(wanted, self._now()))

    async def _changed(self, request: Request, code: str, change: Change) -> Response:
        origin = self._origin(request)
        link = await self._directory.change(code, change, self._now()) if could_be_a_link(code) else None
        if link is None:
            raise NotFound("No link has this code.")
        return json_answer(shown(link, origin))

    async def delete(self, code: str) -> Response:
        if not could_be_a_link(code) or not await self._directory.delete(code, self._now()):
            raise NotFound("No link has this code.")
        return Response(status_code=204)

    def _origin(self, request: Request) -> str:
        return self._public_url or self._proxies.origin(request.scope)


def _change(wanted: LinkChange, now: datetime) -> Change:
    if wanted.url is wanted.expires_at is wanted.enabled is msgspec.UNSET:
        raise InvalidBody("At least one of url, expires_at and enabled is wanted.")
    target: str | Unchanged = UNCHANGED
    expires_at: datetime | Unchanged | None = UNCHANGED
    if not isinstance(wanted.url, msgspec.UnsetType):
        target = normalised(wanted.url)
    if not isinstance(wanted.expires_at, msgspec.UnsetType):
        expires_at = to_come(wanted.expires_at, now)
    enabled = UNCHANGED if isinstance(wanted.enabled, msgspec.UnsetType) else wanted.enabled
    return Change(target, expires_at, enabled)


# A cursor is where the page before ended; callers are not to look into it.
_CURSOR = struct.Struct(">q16s")
_CURSOR_TEXT = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _cursor(link: Link) -> str:
    microseconds = (link.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(_CURSOR.pack(microseconds, link.id.bytes)).decode()


def _mark(cursor: str) -> PageMark:
    try:
        if not _CURSOR_TEXT.fullmatch(cursor):
            raise ValueError
        microseconds, id_bytes = _CURSOR.unpack(base64.urlsafe_b64decode(cursor))
        return PageMark(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id_bytes))
    except (ValueError, OverflowError):
        raise InvalidParameter("cursor: it is not a next_cursor of this service.", "cursor") from None


def shortener_app(
    directory: Directory,
    spool: Spool,
    visitors: Visitors,
    readiness: Readiness,
    *,
    now: Callable[[], datetime],
    public_url: str = "",
    admin_token: str = "",
    trusted_proxies: Sequence[Network] = (),
    referrer_policy: str = "",
    request_id_header: str = "X-Edge-Request-Id",
) -> ASGIApp:
    """All that is served on the shortener's main port."""
    proxies = Proxies(trusted_proxies)
    app = door.new()
    guard = Guard(admin_token)
    _add_links(app, _Links(directory, proxies, public_url, now), guard.dependencies())
    door.add_probes(app, SERVICE_NAME, readiness)
    values = [NewLink, NewAddress, LinkChange, ShownLink, LinkPage, *creates.VALUES]
    paths = {**creates.paths(guard), "/{code}": _REDIRECT_PATH}
    door.add_documents(app, openapi.document(app, _TITLE, _WORDS, values, paths))
    door.add_front_page(app, SERVICE_NAME, _TITLE, "A short code for a long address.")
    redirects = Redirects(
        directory,
        spool,
        visitors,
        proxies,
        referrer_policy=referrer_policy,
        request_id_header=request_id_header,
        now=now,
    )
    making = directory, proxies, guard, public_url, now
    by_path = {
        ("POST", creates.PATH): creates.CreateOne(*making),
        ("POST", creates.BULK_PATH): creates.CreateMany(*making),
    }
    return Measured(door.Direct(app, by_path, redirects), SERVICE_NAME)


def _add_links(app: FastAPI, links: _Links, admin: list[Any]) -> None:
    def add(path: str, method: str, handler: Callable[..., Any], summary: str, **words: Any) -> None:
        app.add_api_route(path, handler, methods=[method], summary=summary, response_class=Response, **words)

    one, many = "/api/v1/urls/{code}", "/api/v1/urls"
    add(
        many, "GET", links.page, "List links, newest first",
        dependencies=admin,
        responses=openapi.answers(
            200, "A page of links.", LinkPage, {"items": [EXAMPLE], "next_cursor": _MARK}, 400, 401, 422, 503
        ),
    )  # fmt: skip
    add(
        one, "GET", links.read, "Read a link",
        responses=openapi.answers(200, "The link.", ShownLink, EXAMPLE, 400, 404, 503),
    )  # fmt: skip
    add(
        one, "PUT", links.replace, "Give a link another address",
        dependencies=admin,
        responses=openapi.answers(200, "The link.", ShownLink, EXAMPLE, 400, 401, 404, 413, 415, 422, 503),
        openapi_extra=openapi.body(NewAddress, {"another": {"url": "https://example.com/another"}}),
    )  # fmt: skip
    add(
        one, "PATCH", links.change, "Change a link",
        dependencies=admin,
        responses=openapi.answers(200, "The link.", ShownLink, EXAMPLE, 400, 401, 404, 413, 415, 422, 503),
        openapi_extra=openapi.body(LinkChange, {"disable": {"enabled": False}, "for good": {"expires_at": None}}),
    )  # fmt: skip
    add(
        one, "DELETE", links.delete, "Delete a link; its code is never given away again",
        status_code=204,
        dependencies=admin,
        responses=openapi.answers(204, "It is deleted.", None, None, 401, 404, 503),
    )  # fmt: skip
