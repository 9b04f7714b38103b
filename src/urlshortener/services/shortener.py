"""The shortener's door: create, change and follow links."""

import base64
import hashlib
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
from fastapi import FastAPI, Header, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from urlshortener.errors import Gone, InvalidBody, InvalidParameter, NotFound
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links import code as codes
from urlshortener.links.directory import Directory
from urlshortener.links.link import UNCHANGED, Change, Draft, Link, Unchanged
from urlshortener.links.store import PageMark
from urlshortener.links.target import normalised
from urlshortener.services import bodies, door, openapi
from urlshortener.services.caller import Network, Proxies, admin_only
from urlshortener.services.http import Readiness, could_be_code, json_answer
from urlshortener.services.measured import Measured
from urlshortener.services.redirect import Redirects

SERVICE_NAME = "shortener-service"

_TITLE = "URL shortener"
_WORDS = (
    "Short links: create them, change them, follow them. Every error is a problem (RFC 9457) with a stable code; "
    "times are RFC 3339 in UTC."
)

# A retry of a create may come after its link's time is over, and gets the link all the same.
_LATEST_RETRY = timedelta(minutes=5)


class NewLink(msgspec.Struct):
    """A link that somebody wants."""

    url: Annotated[
        str, msgspec.Meta(description="The http or https address to go to.", examples=["https://example.com/a/page"])
    ]
    code: (
        Annotated[
            str,
            msgspec.Meta(
                description="A code of your choice: 3 to 64 of A-Z a-z 0-9 - _. Without it one is drawn.",
                extra_json_schema={"pattern": "^[A-Za-z0-9_-]{3,64}$"},
            ),
        ]
        | None
    ) = None
    expires_at: (
        Annotated[datetime, msgspec.Meta(tz=True, description="When it stops: a time to come, with its zone.")] | None
    ) = None


class NewAddress(msgspec.Struct):
    """Where a link is to lead from now on."""

    url: Annotated[str, msgspec.Meta(description="The http or https address to go to.")]


class LinkChange(msgspec.Struct):
    """What to change of a link: at least one of these. What is left out stays."""

    url: Annotated[str, msgspec.Meta(description="The http or https address to go to.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    expires_at: (
        Annotated[datetime, msgspec.Meta(tz=True, description="When it stops; null: never.")] | msgspec.UnsetType | None
    ) = msgspec.UNSET
    enabled: Annotated[bool, msgspec.Meta(description="Whether it can be followed.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )


class ShownLink(msgspec.Struct, frozen=True):
    """A link, as it is now."""

    id: UUID
    code: str
    short_url: Annotated[str, msgspec.Meta(description="What to give to people.")]
    original_url: Annotated[str, msgspec.Meta(description="The address, as a browser would write it.")]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    enabled: bool


class LinkPage(msgspec.Struct, frozen=True):
    """Some links, newest first."""

    items: list[ShownLink]
    next_cursor: Annotated[str, msgspec.Meta(description="Asks for the next page; null on the last.")] | None


_LINK = {
    "id": "0b8f9c3e-6f0a-4c7e-9f43-0d2f1f6f5a11",
    "code": "cat",
    "short_url": "https://s.example/cat",
    "original_url": "https://example.com/a/page",
    "created_at": "2030-01-01T10:00:00Z",
    "updated_at": "2030-01-01T10:00:00Z",
    "expires_at": None,
    "enabled": True,
}

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

    async def create(
        self,
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                description="1 to 128 printable characters. The same key and body give the same link again.",
                min_length=1,
                max_length=128,
                pattern=r"^[\x20-\x7e]+$",
            ),
        ] = None,
    ) -> Response:
        origin = self._origin(request)
        draft = _draft(await bodies.read(request, NewLink), idempotency_key, self._now())
        link = await self._directory.create(draft)
        if link.is_deleted:
            raise Gone("The link that this Idempotency-Key made was deleted.", "Idempotency-Key")
        return json_answer(_shown(link, origin), 201, {"Location": f"/api/v1/urls/{link.code}"})

    async def page(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100, description="How many links at most.")] = 20,
        cursor: Annotated[str | None, Query(description="The next_cursor of the page before.")] = None,
    ) -> Response:
        origin = self._origin(request)
        after = None if cursor is None else _mark(cursor)
        links = await self._directory.page(limit + 1, after)  # one more tells whether another page follows
        items = [_shown(link, origin) for link in links[:limit]]
        return json_answer(LinkPage(items, _cursor(links[limit - 1]) if len(links) > limit else None))

    async def read(self, request: Request, code: str) -> Response:
        origin = self._origin(request)
        link = await self._directory.find(code) if could_be_code(code) else None
        if link is None or link.is_deleted:
            raise NotFound("No link has this code.")
        return json_answer(_shown(link, origin))

    async def replace(self, request: Request, code: str) -> Response:
        wanted = await bodies.read(request, NewAddress)
        return await self._changed(request, code, Change(target=normalised(wanted.url)))

    async def change(self, request: Request, code: str) -> Response:
        wanted = await bodies.read(request, LinkChange)
        return await self._changed(request, code, _change(wanted, self._now()))

    async def _changed(self, request: Request, code: str, change: Change) -> Response:
        origin = self._origin(request)
        link = await self._directory.change(code, change, self._now()) if could_be_code(code) else None
        if link is None:
            raise NotFound("No link has this code.")
        return json_answer(_shown(link, origin))

    async def delete(self, code: str) -> Response:
        if not could_be_code(code) or not await self._directory.delete(code, self._now()):
            raise NotFound("No link has this code.")
        return Response(status_code=204)

    def _origin(self, request: Request) -> str:
        return self._public_url or self._proxies.origin(request.scope)


def _draft(wanted: NewLink, key: str | None, now: datetime) -> Draft:
    """All that is decided before the first attempt; the digest is of what the body means, not of its blanks."""
    target = normalised(wanted.url)
    earliest = now - _LATEST_RETRY if key else now
    expires_at = _to_come(wanted.expires_at, earliest)
    meaning = msgspec.json.encode([target, wanted.code, expires_at])
    return Draft(
        id=uuid4(),
        code=codes.draw() if wanted.code is None else codes.check_chosen(wanted.code),
        target=target,
        created_at=now,
        expires_at=expires_at,
        code_was_chosen=wanted.code is not None,
        key=key,
        body_digest=hashlib.sha256(meaning).digest(),
    )


def _change(wanted: LinkChange, now: datetime) -> Change:
    if wanted.url is wanted.expires_at is wanted.enabled is msgspec.UNSET:
        raise InvalidBody("At least one of url, expires_at and enabled is wanted.")
    target: str | Unchanged = UNCHANGED
    expires_at: datetime | Unchanged | None = UNCHANGED
    if not isinstance(wanted.url, msgspec.UnsetType):
        target = normalised(wanted.url)
    if not isinstance(wanted.expires_at, msgspec.UnsetType):
        expires_at = _to_come(wanted.expires_at, now)
    enabled = UNCHANGED if isinstance(wanted.enabled, msgspec.UnsetType) else wanted.enabled
    return Change(target, expires_at, enabled)


def _to_come(at: datetime | None, now: datetime) -> datetime | None:
    if at is None:
        return None
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        raise InvalidParameter("expires_at: it lies beyond the year 9999.", "expires_at") from None
    if at <= now:
        raise InvalidParameter("expires_at: it has to lie in the future.", "expires_at")
    return at


def _shown(link: Link, origin: str) -> ShownLink:
    return ShownLink(
        id=link.id,
        code=link.code,
        short_url=f"{origin}/{link.code}",
        original_url=link.target,
        created_at=link.created_at.astimezone(UTC),
        updated_at=link.updated_at.astimezone(UTC),
        expires_at=link.expires_at and link.expires_at.astimezone(UTC),
        enabled=link.enabled,
    )


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
    _add_links(app, _Links(directory, proxies, public_url, now), admin_only(admin_token))
    door.add_probes(app, SERVICE_NAME, readiness)
    shown = [NewLink, NewAddress, LinkChange, ShownLink, LinkPage]
    door.add_documents(app, openapi.document(app, _TITLE, _WORDS, shown, {"/{code}": _REDIRECT_PATH}))
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
    app.router.routes.append(Route("/{code}", redirects, methods=["GET", "HEAD"]))  # last: any word matches
    return Measured(app, SERVICE_NAME)


def _add_links(app: FastAPI, links: _Links, admin: list[Any]) -> None:
    def add(path: str, method: str, handler: Callable[..., Any], summary: str, **words: Any) -> None:
        app.add_api_route(path, handler, methods=[method], summary=summary, response_class=Response, **words)

    one, many = "/api/v1/urls/{code}", "/api/v1/urls"
    add(
        many, "POST", links.create, "Create a link",
        status_code=201,
        dependencies=admin,
        responses=openapi.answers(201, "The link.", ShownLink, _LINK, 400, 401, 409, 410, 413, 415, 422, 503),
        openapi_extra=openapi.body(NewLink, {
            "any": {"url": "https://example.com/a/page"},
            "chosen": {"url": "https://example.com/a/page", "code": "cat", "expires_at": "2030-01-31T12:00:00Z"},
        }),
    )  # fmt: skip
    add(
        many, "GET", links.page, "List links, newest first",
        dependencies=admin,
        responses=openapi.answers(
            200, "A page of links.", LinkPage, {"items": [_LINK], "next_cursor": None}, 400, 401, 422, 503
        ),
    )  # fmt: skip
    add(
        one, "GET", links.read, "Read a link",
        responses=openapi.answers(200, "The link.", ShownLink, _LINK, 400, 404, 503),
    )  # fmt: skip
    add(
        one, "PUT", links.replace, "Give a link another address",
        dependencies=admin,
        responses=openapi.answers(200, "The link.", ShownLink, _LINK, 400, 401, 404, 413, 415, 422, 503),
        openapi_extra=openapi.body(NewAddress, {"another": {"url": "https://example.com/another"}}),
    )  # fmt: skip
    add(
        one, "PATCH", links.change, "Change a link",
        dependencies=admin,
        responses=openapi.answers(200, "The link.", ShownLink, _LINK, 400, 401, 404, 413, 415, 422, 503),
        openapi_extra=openapi.body(LinkChange, {"disable": {"enabled": False}, "for good": {"expires_at": None}}),
    )  # fmt: skip
    add(
        one, "DELETE", links.delete, "Delete a link; its code is never given away again",
        status_code=204,
        dependencies=admin,
        responses=openapi.answers(204, "It is deleted.", None, None, 401, 404, 503),
    )  # fmt: skip
