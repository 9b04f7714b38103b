"""Making links: `POST /api/v1/urls`, one, and `POST /api/v1/urls/bulk`, up to a thousand.

No framework stands between the socket and the store: on the way of a create it would take more time than all else
together. So what these routes take is checked here, and described here for the OpenAPI document.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from starlette.types import Receive, Scope, Send

from urlshortener.errors import Gone, InvalidParameter, Refused
from urlshortener.links import code as codes
from urlshortener.links.directory import Directory
from urlshortener.links.link import Draft, Link
from urlshortener.links.target import normalised
from urlshortener.services import bodies, openapi
from urlshortener.services.caller import Guard, Proxies, first_header
from urlshortener.services.http import PROBLEM_ABOUT, problem_of, send_json
from urlshortener.services.link_json import EXAMPLE, NewLink, ShownLink, in_utc, shown, to_come

PATH, BULK_PATH = "/api/v1/urls", "/api/v1/urls/bulk"

MOST_BULK_LINKS = 1_000
MOST_BULK_BYTES = 4 * 1024 * 1024  # a thousand of the longest addresses, twice

_KEY = re.compile(r"[\x20-\x7e]+", re.ASCII)
_LONGEST_KEY = 128


class NewLinkOfMany(NewLink):
    """A link that somebody wants, among others."""

    idempotency_key: (
        Annotated[
            str,
            msgspec.Meta(
                description="As the header Idempotency-Key of a single create, with which it shares its keys.",
                extra_json_schema={"pattern": r"^[\x20-\x7e]{1,128}$"},
            ),
        ]
        | None
    ) = None


_Many = msgspec.Meta(min_length=1, max_length=MOST_BULK_LINKS)


class NewLinks(msgspec.Struct):
    """Links that somebody wants. What is wrong with one of them is the answer to that one."""

    items: Annotated[list[NewLinkOfMany], _Many]


class _Unread(msgspec.Struct):
    """The same, each still to be read by itself."""

    items: Annotated[list[msgspec.Raw], _Many]


class MadeOrNot(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one link: `status` is as it would be for it alone, with the link at 201, else the problem."""

    status: int
    link: ShownLink | None = None
    problem: openapi.Problem | None = None


class LinksMade(msgspec.Struct, frozen=True):
    """What became of each, in their order."""

    items: list[MadeOrNot]


class _Making(ABC):
    """What both routes need."""

    def __init__(
        self, directory: Directory, proxies: Proxies, guard: Guard, public_url: str, now: Callable[[], datetime]
    ) -> None:
        self._directory = directory
        self._proxies = proxies
        self._guard = guard
        self._public_url = public_url
        self._now = now

    @abstractmethod
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def _origin(self, scope: Scope) -> str:
        return self._public_url or self._proxies.origin(scope)


class CreateOne(_Making):
    """`POST /api/v1/urls`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard.check(scope)
        key = _checked_key(first_header(scope, b"idempotency-key"), "Idempotency-Key")
        origin = self._origin(scope)
        wanted = bodies.parsed(await bodies.received(scope, receive), NewLink)
        link = await self._directory.create(_draft(wanted, key, self._now()))
        if link.is_deleted:
            raise _deleted()
        location = f"{PATH}/{link.code}".encode("ascii")
        await send_json(send, 201, shown(link, origin), ((b"location", location),))


class CreateMany(_Making):
    """`POST /api/v1/urls/bulk`. One transaction; an item that is refused keeps none of the others back."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard.check(scope)
        origin, now = self._origin(scope), self._now()
        wanted = bodies.parsed(await bodies.received(scope, receive, MOST_BULK_BYTES), _Unread)
        drafts = [_draft_or_refusal(item, now) for item in wanted.items]
        kept = iter(await self._directory.create_many([draft for draft in drafts if isinstance(draft, Draft)]))
        outcomes = [next(kept) if isinstance(draft, Draft) else draft for draft in drafts]
        await send_json(send, 200, LinksMade([_made_or_not(outcome, origin) for outcome in outcomes]))


def _draft_or_refusal(item: msgspec.Raw, now: datetime) -> Draft | Refused:
    try:
        wanted = bodies.parsed(item, NewLinkOfMany)
        return _draft(wanted, _checked_key(wanted.idempotency_key, "idempotency_key"), now)
    except Refused as refusal:
        return refusal


def _made_or_not(outcome: Link | Refused, origin: str) -> MadeOrNot:
    if isinstance(outcome, Link):
        if not outcome.is_deleted:
            return MadeOrNot(201, link=shown(outcome, origin))
        outcome = _deleted()
    said = problem_of(outcome)
    field = "idempotency_key" if said.field == "Idempotency-Key" else said.field
    problem = openapi.Problem(PROBLEM_ABOUT, said.title, said.status, said.detail, said.code, field)
    return MadeOrNot(said.status, problem=problem)


def _deleted() -> Gone:
    return Gone("The link that this Idempotency-Key made was deleted.", "Idempotency-Key")


def _checked_key(key: str | None, name: str) -> str | None:
    if key is None or (0 < len(key) <= _LONGEST_KEY and _KEY.fullmatch(key)):
        return key
    raise InvalidParameter(f"{name}: 1 to {_LONGEST_KEY} printable characters are wanted.", name)


def _draft(wanted: NewLink, key: str | None, now: datetime) -> Draft:
    """All that is decided before the first attempt. Whether a key made a link before, the store alone can tell."""
    target = normalised(wanted.url)
    expires_at = in_utc(wanted.expires_at) if key else to_come(wanted.expires_at, now)
    return Draft(
        id=codes.draw_id(),
        code=codes.draw() if wanted.code is None else codes.check_chosen(wanted.code),
        target=target,
        created_at=now,
        expires_at=expires_at,
        code_was_chosen=wanted.code is not None,
        key=key,
        body_digest=_digest(target, wanted.code, expires_at) if key else b"",
    )


def _digest(target: str, code: str | None, expires_at: datetime | None) -> bytes:
    """Of what a body means, not of its blanks."""
    return hashlib.sha256(msgspec.json.encode([target, code, expires_at])).digest()


# What the documents need to know.

VALUES = [NewLinks, NewLinkOfMany, MadeOrNot, LinksMade]
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "1 to 128 printable characters. The same key and body give the same link again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": _LONGEST_KEY, "pattern": r"^[\x20-\x7e]+$"},
}
_NEW = {"url": "https://example.com/a/page"}
_CHOSEN = {**_NEW, "code": "cat", "expires_at": "2030-01-31T12:00:00Z"}
_TAKEN = {
    "type": PROBLEM_ABOUT,
    "title": "Conflict",
    "status": 409,
    "detail": "The code cat is taken.",
    "code": "CODE_TAKEN",
    "field": "code",
}


def paths(guard: Guard) -> dict[str, Any]:
    """Both routes, as an OpenAPI document has them."""
    one = {
        "summary": "Create a link",
        "operationId": "create",
        "parameters": [_KEY_PARAMETER],
        **openapi.body(NewLink, {"any": _NEW, "chosen": _CHOSEN}),
        "responses": openapi.answers(201, "The link.", ShownLink, EXAMPLE, 400, 401, 409, 410, 413, 415, 422, 503),
    }
    items = [{"status": 201, "link": EXAMPLE}, {"status": 409, "problem": _TAKEN}]
    many = {
        "summary": f"Create up to {MOST_BULK_LINKS:,} links",
        "description": "One transaction, an answer for each in their order: what would have been said to it alone. "
        "503 is said of all of them: repeat the request; items with an idempotency_key are not made twice.",
        "operationId": "create_many",
        **openapi.body(NewLinks, {"two": {"items": [{**_NEW, "idempotency_key": "order-66"}, _CHOSEN]}}),
        "responses": openapi.answers(
            200, "What became of each.", LinksMade, {"items": items}, 400, 401, 413, 415, 422, 503
        ),
    }
    return {PATH: {"post": _as_documented(one, guard)}, BULK_PATH: {"post": _as_documented(many, guard)}}


def _as_documented(operation: dict[str, Any], guard: Guard) -> dict[str, Any]:
    responses = {str(status): answer for status, answer in operation["responses"].items()}
    return {**operation, "responses": responses, **({"security": guard.described()} if guard.described() else {})}
