"""Reads the heads of plain requests whole, in a few passes over their bytes, or not at all.

It has to be narrow, never wrong: what it takes for a plain request, an HTTP parser would read in the same way. So it
knows one method and one version, one way to end a line and to part a name from its value, and no header that changes
what a request is; of headers whose value is wanted it takes none that comes twice, or in need of being trimmed.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

_MOST_BYTES = 16 * 1024  # that arrive at once: more is not what a browser sends

# In a copy of what arrived letters are small, and control bytes, CR and LF among them, are a CR each. So a line is all
# up to a CR, and ends in two of them. If there are as many such pairs as there were CR LF, and the last four bytes of a
# head are CR LF CR LF, then no other control byte stands in it: each pair was CR LF, since none can be so in between.
_COPY = bytes(
    ord("\r") if (byte < 32 and byte != ord("\t")) or byte == 127 else byte for byte in bytes(range(256)).lower()
)

_REQUEST_LINE = re.compile(rb"GET /([A-Za-z0-9_-]{1,64}+)(?:\?[!\"$-~]*+)? HTTP/1\.1\r\n")

_NOTED = {
    rb"user-agent": rb"(?![ \t])([^\r]{1,512}+)(?<![ \t])",
    rb"referer": rb"(?![ \t])([^\r]{1,1024}+)(?<![ \t])",
}
_NOTED_OF_PROXIES = {
    rb"x-forwarded-for": rb"([^\r]{1,256}+)",
    rb"traceparent": rb"(00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})",
}
_REQUEST_ID = rb"([!#-+\--\[\]-~]{1,64}+)"  # no comma, as in an event; and nothing that JSON would escape

# Whoever sends these wants more than a redirect.
_UNUSUAL = [rb"connection", rb"proxy-connection", rb"content-length", rb"transfer-encoding", rb"upgrade", rb"expect"]
_USUAL_CONNECTION = rb"connection: keep-alive"


# code, user agent, referer, X-Forwarded-For, traceparent, the edge's id of the request; empty is what is not there
PlainHead: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes]


def reader(request_id_header: str | None) -> Callable[[bytes], list[PlainHead] | None]:
    """A reader of what one who is believed sends, with his own id of the request; None: of what anybody else sends.

    It gives the heads that the data consists of, or None if there is anything else in it.
    """
    pattern = _headers(request_id_header)

    def read(data: bytes) -> list[PlainHead] | None:
        copy = data.translate(_COPY)
        if len(data) > _MOST_BYTES or data.count(b"\r\n") != copy.count(b"\r\r"):
            return None
        heads = []
        end = 0
        while end < len(data):
            line = _REQUEST_LINE.match(data, end)
            headers = line and pattern.match(copy, line.end())
            if line is None or headers is None or not data.endswith(b"\r\n\r\n", end, headers.end()):
                return None
            (_, end), (a, b), (c, d), (e, f), (g, h), (i, j) = headers.regs
            heads.append((line[1], data[a:b], data[c:d], data[e:f], data[g:h], data[i:j]))
        return heads

    return read


def _headers(request_id_header: str | None) -> re.Pattern[bytes]:
    """All header lines and the blank one, in the copy. The groups are the values that are noted."""
    noted = dict(_NOTED)
    unusual = [*_UNUSUAL, *_NOTED]
    if request_id_header is not None:
        noted |= _NOTED_OF_PROXIES | {re.escape(request_id_header.lower().encode()): _REQUEST_ID}
        unusual = [*_UNUSUAL, *noted]
    lines = [rb"%b(?(%d)(?!)): %b" % (name, group, value) for group, (name, value) in enumerate(noted.items(), start=1)]
    lines += [rb"(?!)()"] * (5 - len(noted))  # what is noted of nobody: a line that never is
    rest = rb"[!#$%&'*+\-.^_`|~0-9a-z]*+:[^\r]*+"
    # Most names differ from all of these in their first letter.
    harmless = bytes(letter for letter in range(ord("a"), ord("z") + 1) if letter not in {name[0] for name in unusual})
    lines = [rb"[%b]%b" % (harmless, rest), *lines, _USUAL_CONNECTION]
    lines.append(rb"(?!:|(?:%b):)%b" % (b"|".join(unusual), rest))
    return re.compile(rb"(?:(?:%b)\r\r)*+\r\r" % b"|".join(lines))
