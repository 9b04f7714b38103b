"""What the fast way says, and what is told of it: the bytes and the numbers of the ordinary way, made beforehand."""

import re

from starlette.requests import Request

from urlshortener.errors import ChannelUnavailable
from urlshortener.links.link import Destination
from urlshortener.services.http import problem_answer, problem_of
from urlshortener.services.redirect import redirect_headers
from urlshortener.telemetry import FAST_REDIRECTS, REDIRECTS, REQUEST_SECONDS, REQUESTS, add_many, observe_many

_ACCEPT = re.compile(rb"\r\naccept:[ \t]*([^\r]*)", re.IGNORECASE)
_REDIRECT = b"HTTP/1.1 307 Temporary Redirect\r\n"
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\n"


class Replies:
    """The bytes of answers, as uvicorn writes them. Its default headers are the date, which changes each second.

    A link's redirect is its target between two pieces that all links share, so it need not be kept for each.
    """

    def __init__(self, referrer_policy: str) -> None:
        lines = _lines(redirect_headers(Destination("{}"), referrer_policy))
        self._before, _, self._behind = (lines + b"\r\n").partition(b"{}")
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._around = _REDIRECT + self._before, self._behind

    def around_target(self, default_headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """What stands before a redirect's target, and behind it."""
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            self._around = _REDIRECT + _lines(default_headers) + self._before, self._behind
        return self._around

    def refusal(self, head: bytes, error: BaseException) -> bytes:
        """The same problem that the ordinary way would answer to whoever asks so."""
        accept = [(b"accept", value) for value in _ACCEPT.findall(head)]
        request = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": accept})
        assert isinstance(error, ChannelUnavailable), "a spool's future has no other exception"
        answer = problem_answer(request, problem_of(error))
        return _UNAVAILABLE + _lines([*self._default_headers, *answer.raw_headers]) + b"\r\n" + bytes(answer.body)


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


class Tally:
    """The numbers that the ordinary way keeps of each request (services/measured.py): here once for all of a turn."""

    def __init__(self, service_name: str) -> None:
        route = service_name, "/{code}"
        self._found = REDIRECTS.labels("found"), REQUESTS.labels(*route, "GET", "307"), FAST_REDIRECTS
        self._refused = REDIRECTS.labels("unavailable"), REQUESTS.labels(*route, "GET", "503")
        self._seconds = REQUEST_SECONDS.labels(*route)

    def add(
        self, count: int, seconds: float, error: BaseException | None, exemplar: dict[str, str] | None = None
    ) -> None:
        """So many, and what leads to the trace of one of them."""
        for counter in self._found if error is None else self._refused:
            add_many(counter, count)
        observe_many(self._seconds, seconds, count, exemplar)
