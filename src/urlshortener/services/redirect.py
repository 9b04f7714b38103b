"""Following a link: the one thing that visitors come for."""

from collections.abc import Callable
from datetime import datetime

from starlette.types import Receive, Scope, Send

from urlshortener.errors import ChannelUnavailable, Gone, NotFound, StoreUnavailable
from urlshortener.events.event import LONGEST_REFERER, LONGEST_USER_AGENT
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors
from urlshortener.links.code import could_be_a_link
from urlshortener.links.directory import Directory
from urlshortener.links.link import Destination
from urlshortener.services.caller import Proxies, header
from urlshortener.telemetry import FOUND_IN, REDIRECTS, current, spooling

_FOUND = REDIRECTS.labels("found")


def redirect_headers(link: Destination, referrer_policy: str) -> list[tuple[bytes, bytes]]:
    """All headers of a redirect, `Date` apart, in the order in which they are sent. There is no body."""
    headers = [
        (b"location", link.target.encode("ascii")),
        (b"cache-control", b"private, no-store"),
        (b"x-robots-tag", b"noindex"),
        (b"content-length", b"0"),
    ]
    if referrer_policy:
        headers.append((b"referrer-policy", referrer_policy.encode("ascii")))
    return headers


class Redirects:
    """`GET` and `HEAD` `/{code}`."""

    def __init__(
        self,
        directory: Directory,
        spool: Spool,
        visitors: Visitors,
        proxies: Proxies,
        *,
        referrer_policy: str,
        request_id_header: str,
        now: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._spool = spool
        self._visitors = visitors
        self._proxies = proxies
        self._referrer_policy = referrer_policy
        self._request_id_header = request_id_header.lower().encode("ascii")
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        code = scope["path"][1:]
        at = self._now()
        link = await self._live_link(code, at)
        if scope["method"] == "GET":
            try:
                await self._remember(scope, code, at)
            except ChannelUnavailable:  # only a strict spool says so
                REDIRECTS.labels("unavailable").inc()
                raise
        _FOUND.inc()
        headers = redirect_headers(link, self._referrer_policy)
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _live_link(self, code: str, at: datetime) -> Destination:
        try:
            link = await self._found(code) if could_be_a_link(code) else None
        except StoreUnavailable:
            REDIRECTS.labels("unavailable").inc()
            raise
        if link is None:
            REDIRECTS.labels("unknown").inc()
            raise NotFound("No link has this code.")
        if not link.is_live(at):
            REDIRECTS.labels("gone").inc()
            raise Gone("This link is over.")
        return link

    async def _found(self, code: str) -> Destination | None:
        link = self._directory.known(code)
        if link is None:
            return await self._directory.follow(code)
        if (span := current()) is not None:
            span.set_attribute(FOUND_IN, "memory")
        return link

    async def _remember(self, scope: Scope, code: str, at: datetime) -> None:
        """Have the access in the spool; only then may the visitor leave."""
        address = self._proxies.client(scope)
        user_agent = header(scope, b"user-agent")[:LONGEST_USER_AGENT] or None
        with spooling() as traceparent:
            await self._spool.append(
                code,
                at,
                user_agent,
                self._visitors.address(address),
                header(scope, b"referer")[:LONGEST_REFERER] or None,
                self._visitors.visitor(address, user_agent, at),
                self._proxies.request_id(scope, self._request_id_header),
                traceparent,
            )
