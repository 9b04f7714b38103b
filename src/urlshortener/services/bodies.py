"""A request's JSON body: its limits, and the way from bytes to fields."""

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from urlshortener.errors import InvalidBody
from urlshortener.services.http import BodyTooLarge, NotJson, UnsupportedMediaType

MOST_BYTES = 16 * 1024

_Body = TypeVar("_Body", bound=msgspec.Struct)

_WANTED = {
    "url": "a text is wanted, as https://example.com/page.",
    "code": "a text of 3 to 64 of the characters A-Z, a-z, 0-9, - and _ is wanted.",
    "expires_at": "a time with its zone is wanted, as 2030-01-31T12:00:00Z.",
    "enabled": "true or false is wanted.",
}
_LENGTH = re.compile(r"[0-9]+", re.ASCII)
_FIELD = re.compile(r"\$\.(\w+)|field `(\w+)`")


async def read(request: Request, kind: type[_Body]) -> _Body:
    """The body as such a value; refuses what is too large, not JSON, or has the wrong fields. Unknown ones pass."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("The body has to be application/json.", "Content-Type")
    return _parsed(await _bytes(request), kind)


async def _bytes(request: Request) -> bytes:
    """Counted while they come: a length that was declared may be missing, or wrong."""
    declared = request.headers.get("content-length", "")
    if _LENGTH.fullmatch(declared) and (len(declared) > 9 or int(declared) > MOST_BYTES):
        raise BodyTooLarge("The body is larger than 16 KiB.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise BodyTooLarge("The body is larger than 16 KiB.")
    return bytes(body)


def _parsed(body: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        _check_json(body)  # the first wrong field may stand before something that is not JSON at all
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON.") from None


def _check_json(body: bytes) -> None:
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
