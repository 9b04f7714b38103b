"""Short codes and ids: how they are drawn, and which codes a caller may choose."""

import os
import re
import string
import struct
from collections.abc import Iterator
from uuid import UUID

from urlshortener.errors import InvalidCode

DRAWN_LENGTH = 8  # 47.6 bits: with a hundred million links, one guess in two million meets one

_LETTERS = string.ascii_letters + string.digits
_CHOSEN = re.compile(r"[A-Za-z0-9_-]{3,64}")
_POSSIBLE = re.compile(r"[A-Za-z0-9_-]{1,64}")

# Every first path segment that the services use themselves: a link there could never be followed.
# fmt: off
RESERVED = frozenset({
    "api", "docs", "favicon.ico", "health", "login", "logout",
    "metrics", "openapi.json", "ready", "redoc", "robots.txt", "static",
})
# fmt: on


def _from_the_system() -> Iterator[int]:
    """Numbers below 2**64 that nobody can guess. The system is asked for many at once: each time it takes longer than
    all else here."""
    while True:
        yield from struct.unpack("=256Q", os.urandom(2048))


_numbers = _from_the_system()


def draw() -> str:
    """A code that nobody can guess. It may be taken as any other: then the store draws again."""
    number = next(_numbers)  # far above what eight letters hold: each code is as likely as any other, to 1 in 80,000
    letters = []
    for _ in range(DRAWN_LENGTH):
        number, place = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[place])
    return "".join(letters)


def draw_id() -> UUID:
    """The id of a new link, which no other has."""
    return UUID(int=next(_numbers) << 64 | next(_numbers), version=4)


def check_chosen(code: str) -> str:
    """The code, if a caller may choose it; else InvalidCode."""
    if not _CHOSEN.fullmatch(code):
        raise InvalidCode("A code has 3 to 64 of the characters A-Z, a-z, 0-9, - and _.")
    if code.lower() in RESERVED:
        raise InvalidCode(f"The code {code} is kept for the service itself.")
    return code


def could_be_a_link(code: str) -> bool:
    """Whether any link may have this code: what cannot is not worth a query, and no database has to swallow it."""
    return _POSSIBLE.fullmatch(code) is not None
