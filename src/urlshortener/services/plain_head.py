"""Reads the heads of plain requests whole, in two passes over their bytes, or not at all.

It has to be narrow, never wrong: what it takes for a plain request, an HTTP parser would read in the same way. So it
knows one method and one version, one way to end a line and to part a name from its value, and no header that changes
what a request is; of headers whose value is wanted it takes none that comes twice, or in need of being trimmed.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

from urlshortener.events.event import LONGEST_REFERER, LONGEST_USER_AGENT

MOST_BYTES = 16 * 1024  # that arrive at once: more is not what a browser sends

_END = b"\r\n\r\n"
_CONTROL = frozenset([*range(32), 127]) - {ord("\t")}
_TEXT = bytes(byte for byte in range(256) if byte not in _CONTROL)

_REQUEST_LINE = rb"GET /([A-Za-z0-9_-]{1,64}+)(?:\?[!\"$-~]*+)? HTTP/1\.1\r\n"

_NOTED = {
    b"user-agent": rb"(?![ \t])([^\r]{1,%d}+)(?<![ \t])" % LONGEST_USER_AGENT,
    b"referer": rb"(?![ \t])([^\r]{1,%d}+)(?<![ \t])" % LONGEST_REFERER,
}
_NOTED_OF_PROXIES = {
    b"x-forwarded-for": rb"([^\r]{1,256}+)",
    b"traceparent": rb"(00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})",
}
_REQUEST_ID = rb"([!#-+\--\[\]-~]{1,64}+)"  # no comma, as in an event; and nothing that JSON would escape

_IN_NAMES = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

# Whoever sends these wants more than a redirect, but for what browsers and proxies always say.
_UNUSUAL = [b"connection", b"proxy-connection", b"content-length", b"transfer-encoding", b"upgrade", b"expect"]
_USUAL = [rb"[cC](?i:onnection: keep-alive)", rb"[uU](?i:pgrade-insecure-requests): 1"]


# code, user agent, referer, X-Forwarded-For, traceparent, the edge's id of the request; empty is what is not there
PlainHead: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes]

# Gives the heads that data consists of, each as it is understood and as it came; none if there is anything else in it.
Reader: TypeAlias = Callable[[bytes], list[tuple[PlainHead, bytes]]]


def has_plain_lines(data: bytes) -> bool:
    """Whether its control bytes, tabs apart, are CR and LF by turns. A reader takes that for granted, since it can be
    asked once for all that arrived, one behind the other: that costs half."""
    control = data.translate(None, _TEXT)
    return control == b"\r\n" * (len(control) // 2)


def reader(request_id_header: str | None) -> Reader:
    """A reader of what one who is believed sends, with his own id of the request; None: of what anybody else sends.

    It takes a CR only with LF right behind it. Where they come by turns, there is no other LF then: so `[^\\r]` is all
    that may stand in a line.
    """
    whole = _head(request_id_header).fullmatch

    def read(data: bytes) -> list[tuple[PlainHead, bytes]]:
        if head := whole(data):
            return [(head.groups(b""), data)]  # type: ignore[list-item]
        *texts, rest = [text + _END for text in data.split(_END)]
        heads = [(head.groups(b""), text) for text in texts if (head := whole(text))]
        return heads if rest == _END and len(heads) == len(texts) else []  # type: ignore[return-value]

    return read


def _head(request_id_header: str | None) -> re.Pattern[bytes]:
    """The request line, all header lines and the blank one. The groups are the code and the values that are noted."""
    noted = dict(_NOTED)
    if request_id_header is not None:
        noted |= _NOTED_OF_PROXIES | {request_id_header.lower().encode(): _REQUEST_ID}
    unusual = [*_UNUSUAL, *noted]
    # Most names differ from all of these in their first letter.
    harmless = bytes(letter for letter in range(ord("a"), ord("z") + 1) if letter not in {name[0] for name in unusual})
    lines = [
        rb"[%b%b]%b*+:[^\r]*+" % (harmless, harmless.upper(), _IN_NAMES),
        *[rb"%b(?(%d)(?!)): %b" % (_name(name), group, value) for group, (name, value) in enumerate(noted.items(), 2)],
        *[rb"(?!)()"] * (5 - len(noted)),  # what is noted of nobody: a line that never is
        *_USUAL,
        rb"(?!%b)%b++:[^\r]*+" % (b"|".join(_name(name) + b":" for name in unusual), _IN_NAMES),
    ]
    return re.compile(rb"%b(?:(?:%b)\r\n)*+\r\n" % (_REQUEST_LINE, b"|".join(lines)))


def _name(name: bytes) -> bytes:
    """A header's name in capitals or small letters; the first by itself, for there `re` passes by what is not it."""
    first, rest = re.escape(name[:1]), re.escape(name[1:])
    return rb"[%b%b](?i:%b)" % (first, first.upper(), rest)
