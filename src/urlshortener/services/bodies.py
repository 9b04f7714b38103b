"""A request's JSON body: its limits, and the way from bytes to fields."""

import functools
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from urlshortener.errors import InvalidBody
from urlshortener.services.caller import first_header
from urlshortener.services.http import BodyTooLarge, NotJson, UnsupportedMediaType

MOST_BYTES = 16 * 1024

_Body = TypeVar("_Body", bound=msgspec.Struct)

_WANTED = {
    "url": "a text is wanted, as https://example.com/page.",
    "code": "a text of 3 to 64 of the characters A-Z, a-z, 0-9, - and _ is wanted.",
    "expires_at": "a time with its zone is wanted, as 2030-01-31T12:00:00Z.",
    "enabled": "true or false is wanted.",
    "idempotency_key": "a text of 1 to 128 printable characters is wanted.",
    "items": "a list of 1 to 1,000 links is wanted.",
}
_LENGTH = re.compile(r"[0-9]+", re.ASCII)
_FIELD = re.compile(r"\$\.(\w+)|field `(\w+)`")


async def read(request: Request, kind: type[_Body]) -> _Body:
    """The body as such a value; refuses what is too large, not JSON, or has the wrong fields. Unknown ones pass."""
    return parsed(await received(request.scope, request.receive), kind)


async def received(scope: Scope, receive: Receive, most_bytes: int = MOST_BYTES) -> bytes:
    """The body of a request that says it is JSON; refuses what is too large, and does not wait for the rest of it."""
    media_type = (first_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("The body has to be application/json.", "Content-Type")
    declared = first_header(scope, b"content-length") or ""
    if _LENGTH.fullmatch(declared) and (len(declared) > 9 or int(declared) > most_bytes):
        raise _too_large(most_bytes)
    parts: list[bytes] = []
    size, more = 0, True
    while more:  # counted while they come: a length that was declared may be missing, or wrong
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most_bytes:
            raise _too_large(most_bytes)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(most_bytes: int) -> BodyTooLarge:
    limit = f"{most_bytes >> 20} MiB" if most_bytes >> 20 else f"{most_bytes >> 10} KiB"
    return BodyTooLarge(f"The body is larger than {limit}.")


@functools.cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def parsed(body: bytes | msgspec.Raw, kind: type[_Body]) -> _Body:
    """JSON as such a value; unknown fields pass. NotJson, or InvalidBody that names the field."""
    try:
        value: _Body = _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        _check_json(body)  # the first wrong field may stand before something that is not JSON at all
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON.") from None
    return value


def _check_json(body: bytes | msgspec.Raw) -> None:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON.") from None


def _wrong_field(message: str) -> InvalidBody:
    found = _FIELD.search(message)
    if not found:
        return InvalidBody("The body has to be one JSON object.")
    name = found[1] or found[2]
    return InvalidBody(f"{name}: {_WANTED.get(name, 'it is not acceptable.')}", name)
