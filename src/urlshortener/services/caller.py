"""Who asks: his address, the scheme and host he asked, and whether he may."""

import re
import secrets
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request
from starlette.types import Scope

from urlshortener.events.event import REQUEST_ID
from urlshortener.services.http import InvalidHost, Unauthorized

Network = IPv4Network | IPv6Network

_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?", re.ASCII)


class Proxies:
    """The networks whose word about a visitor is believed. Without any, only the connection itself counts."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def client(self, scope: Scope) -> str | None:
        """The visitor's address."""
        return self.address(_peer(scope), header(scope, b"x-forwarded-for"))

    def address(self, peer: str | None, forwarded_for: str) -> str | None:
        """X-Forwarded-For from the right, as far as it was written by those we trust.

        Whatever stands further left anyone may have written, so it is never looked at.
        """
        address = _parsed(peer or "")
        if address is None or not self._trusted:
            return None if address is None else str(address)
        for part in reversed(forwarded_for.split(",")):
            before = _parsed(part.strip()) if self._trusts(address) else None
            if before is None:
                break
            address = before
        return str(address)

    def sent(self, scope: Scope) -> bool:
        """Whether the request comes straight from one of them."""
        return self.are(_peer(scope))

    def are(self, peer: str | None) -> bool:
        """Whether this is the address of one of them."""
        address = _parsed(peer or "")
        return address is not None and self._trusts(address)

    def request_id(self, scope: Scope, name: bytes) -> str | None:
        """The edge's own id of the request, in the header of that name; None where there is none to believe.

        From anybody but a trusted proxy it is not believed: one who sends the same id twice would be counted once.
        """
        given = header(scope, name)
        return given if given and REQUEST_ID.fullmatch(given) and self.sent(scope) else None

    def origin(self, scope: Scope) -> str:
        """Scheme and host that were asked, as `https://s.example`; InvalidHost where the host could not be one."""
        scheme = str(scope.get("scheme", "http"))
        host = header(scope, b"host")
        if self.sent(scope):
            scheme = _last(header(scope, b"x-forwarded-proto")).lower() or scheme
            host = _last(header(scope, b"x-forwarded-host")) or host
        if not _HOST.fullmatch(host) or scheme not in ("http", "https"):
            raise InvalidHost("The request names no host that short links could begin with.", "Host")
        return f"{scheme}://{host}"

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def header(scope: Scope, name: bytes) -> str:
    """All values of a header, joined as one list; empty if there is none. Odd bytes stay as they are (Latin-1)."""
    return b",".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def first_header(scope: Scope, name: bytes) -> str | None:
    """The first value of a header, None if there is none; odd bytes as above."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def _peer(scope: Scope) -> str | None:
    peer = scope.get("client")
    return peer[0] if peer else None


def _last(values: str) -> str:
    return values.rpartition(",")[2].strip()


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


_bearer = HTTPBearer(auto_error=False, description="ADMIN_TOKEN as `Authorization: Bearer`.")
_api_key = APIKeyHeader(name="X-Api-Key", auto_error=False, description="ADMIN_TOKEN in a header of its own.")


class Guard:
    """Lets nobody write or list but the holder of the token; everybody where no token is set.

    A service without a token listens on loopback only: the start sees to that.
    """

    def __init__(self, token: str) -> None:
        self._wanted = token.encode()

    def check(self, scope: Scope) -> None:
        """Raise Unauthorized unless the request carries the token."""
        if not self._wanted:
            return
        scheme, _, bearer = (first_header(scope, b"authorization") or "").partition(" ")
        given = (bearer.strip() if scheme.lower() == "bearer" else "", first_header(scope, b"x-api-key") or "")
        if not any(secrets.compare_digest(text.encode(), self._wanted) for text in given):
            raise Unauthorized("This needs the token, as Authorization: Bearer or X-Api-Key.")

    def dependencies(self) -> list[Any]:
        """The same for a route of the framework's, which has it in its document too."""

        async def check(request: Request) -> None:
            self.check(request.scope)

        return [Depends(_bearer), Depends(_api_key), Depends(check)] if self._wanted else []

    def described(self) -> list[dict[str, list[str]]]:
        """The same for a route that is not the framework's, as its document has it."""
        return [{_bearer.scheme_name: []}, {_api_key.scheme_name: []}] if self._wanted else []
