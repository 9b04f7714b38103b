"""What nobody should send, sent to both shapes: an answer comes in time, it is no 5xx, and no log shows a traceback."""

import asyncio
import collections
import contextlib
import itertools
import json
import re
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.journeys.load import eight_at_once
from tests.journeys.systems import System
from tests.journeys.test_the_road import made, until_counted

_LIMIT_SECONDS = 20
_END = b"Host: s.example\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def no_log_shows_a_traceback(system: System) -> Iterator[None]:
    """Each test here is this one too."""
    before = [process.log.stat().st_size for process in system.processes]
    yield
    for process, size in zip(system.processes, before, strict=True):
        said = process.log.read_bytes()[size:].decode()
        assert "Traceback" not in said
        assert '"level":"error"' not in said


def doors(system: System) -> list[str]:
    """Both main doors, and those of probes and metrics."""
    ops = {url for process in system.processes for url in process.ops_urls}
    return [system.shortener, system.analytics, *sorted(ops)]


def sent(url: str, *parts: bytes, leaves: bool = False) -> bytes:
    """What comes back until the other side closes. It has to, within the limit, for all that is sent here."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=_LIMIT_SECONDS) as raw:
        with contextlib.suppress(ConnectionError):  # it was refused before it was all sent
            for part in parts:
                raw.sendall(part)
            if leaves:
                raw.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := raw.recv(65536):
                answer += data
        return answer


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


# --- Heads

HEADS = [
    (b"GET /health HTTP/1.1\r\n" + _END, 200),
    (b"GET /health HTTP/1.0\r\n\r\n", 200),
    (b"nonsense\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # somebody speaks TLS
    (b"GET /%00 HTTP/1.1\r\n" + _END, 404),
    (b"GET /cat%00 HTTP/1.1\r\n" + _END, 404),
    (b"GET /%ff%fe HTTP/1.1\r\n" + _END, 404),
    (b"GET /%zz HTTP/1.1\r\n" + _END, 404),
    (b"GET /%0a HTTP/1.1\r\n" + _END, 404),
    (b"GET /cat%0a HTTP/1.1\r\n" + _END, 404),
    (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n" + _END, 404),
    (b"GET /caf\xc3\xa9 HTTP/1.1\r\n" + _END, 400),
    (b"BREW /health HTTP/1.1\r\n" + _END, 400),
    (b"TRACE /health HTTP/1.1\r\n" + _END, 405),
    (b"CONNECT s.example:443 HTTP/1.1\r\n" + _END, 400),
    (b"OPTIONS * HTTP/1.1\r\n" + _END, 404),
    (b"GET /health HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n" + _END, 431),
    (b"GET /health HTTP/1.1\r\nX: " + b"a" * 65_536 + b"\r\n" + _END, 431),
    (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 11_000 + _END, 431),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + _END, 431),
    (b"GET /health HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nHost: s\r\n\r\n", 200),
    (b"POST /health HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n" + _END + b"0\r\n\r\n", 400),
    (b"POST /health HTTP/1.1\r\nContent-Length: -1\r\n" + _END, 400),
]


def test_every_head_is_answered_at_every_door(system: System) -> None:
    asked = list(itertools.product(doors(system), HEADS))
    answers = eight_at_once(lambda each: sent(each[0], each[1][0]), asked)
    for (door, (head, status)), answer in zip(asked, answers, strict=True):
        assert status_of(answer) == status, (door, head[:100], answer[:200])
        assert b"\r\nserver:" not in answer.lower()
        if status >= 400:
            assert b"application/problem+json" in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == status


def test_a_head_that_grows_without_end_is_cut_off(system: System) -> None:
    for door in doors(system):
        lines = (b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(64))
        assert status_of(sent(door, b"GET / HTTP/1.1\r\n", *lines)) == 431


def test_heads_that_never_end_are_given_up_and_hold_nobody_up(system: System) -> None:
    waiting = []
    with contextlib.ExitStack() as stack:
        for door in doors(system):
            where = urlsplit(door)
            for _ in range(50):
                raw = stack.enter_context(socket.create_connection((where.hostname, where.port), _LIMIT_SECONDS))
                raw.sendall(b"GET /health HTTP/1.1\r\nHost:")
                waiting.append(raw)
            assert httpx.get(f"{door}/health", timeout=_LIMIT_SECONDS).status_code == 200
        assert {status_of(raw.recv(65536)) for raw in waiting} == {408}


def test_pipelined_requests_are_answered_in_their_order(system: System) -> None:
    first = b"GET /nosuch01 HTTP/1.1\r\nHost: s.example\r\n\r\n"
    for door in doors(system):
        answer = sent(door, first + b"GET /health HTTP/1.1\r\n" + _END)
        assert re.findall(rb"HTTP/1\.1 (\d+) ", answer) == [b"404", b"200"]


ODD_HEADERS = [
    b"User-Agent: " + b"\xff" * 8_000,
    b"User-Agent: \xed\xa0\x80 half a surrogate",
    b"Referer: http://[",
    b"Referer: " + b"\xfe" * 8_000,
    b"X-Forwarded-For: " + b"1.2.3.4," * 1_000,
    b"X-Forwarded-For: \xff, ::ffff:999.1.1.1, [::1]:x",
    b"Forwarded: for=\xff",
    b"X-Request-ID: " + b"\xff" * 300,
    b"traceparent: 00-" + b"z" * 32 + b"-\xff-01",
    b"tracestate: " + b"=," * 4_000,
    b"Accept: \xff/*;q=nonsense,;;,",
    b"Cookie: " + b"a=" * 6_000,
    b"Range: bytes=0-0,\xff",
    b"If-None-Match: \xff",
    b"Host: again.example",
]


async def test_a_visitor_with_an_odd_header_is_redirected_and_counted(system: System) -> None:
    code = made(system)
    heads = [b"GET /%s HTTP/1.1\r\n%s\r\n" % (code.encode(), header) + _END for header in ODD_HEADERS]
    answers = [await asyncio.to_thread(sent, system.shortener, head) for head in heads]
    assert [status_of(answer) for answer in answers] == [307] * len(heads)
    assert await until_counted(system, {code: len(heads)}, _LIMIT_SECONDS) == {code: len(heads)}


# --- Methods, paths and queries

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "PURGE")
_ODD_CODES = ("{known}", "nosuch12", "%00", "%ff", "cat%0a", "..%2f..%2fetc", "%f0%9f%90%88", "a" * 3_000)
_PATHS_OUTSIDE_OF_DOCUMENTS = ("/", "/docs", "/openapi.json", "/robots.txt", "/favicon.ico", "/metrics", "//", "/a/b/c")


def routes(door: str, known: str) -> list[str]:
    documented = httpx.get(f"{door}/openapi.json", timeout=_LIMIT_SECONDS).json()["paths"]
    odd = [code.format(known=known) for code in _ODD_CODES]
    with_codes = {path.replace("{code}", code) for path in documented for code in odd}
    return sorted(with_codes | set(_PATHS_OUTSIDE_OF_DOCUMENTS))


def test_every_method_on_every_route_is_answered(system: System) -> None:
    known = made(system)
    for door in (system.shortener, system.analytics):
        asked = list(itertools.product(_METHODS, routes(door, known)))
        heads = [f"{method} {path} HTTP/1.1\r\n".encode() + _END for method, path in asked]
        for what, answer in zip(asked, eight_at_once(partial(sent, door), heads), strict=True):
            status = status_of(answer)
            assert 200 <= status < 500, (what, answer[:200])
            assert (b"\r\nallow: " in answer) == (status == 405), (what, answer[:200])


_ODD_VALUES = (
    "",
    "%00",
    "%ff",
    "-1",
    "9223372036854775808",
    "1" * 5_000,
    "1e400",
    "NaN",
    "0001-01-01T00:00:00%2B14:00",
    "9999-12-31T23:59:59-14:00",
    "..%2F..%2Fetc%2Fpasswd",
    "Europe%2F..%2F..",
    "%E2%80%AE",
)
_PARAMETERS = {
    "/api/v1/urls": ("limit", "cursor"),
    "/api/v1/analytics": ("limit", "offset"),
    "/api/v1/analytics/{known}/series": ("interval", "start", "end", "timezone"),
}


def test_every_parameter_with_any_value_is_answered(system: System) -> None:
    known = made(system)
    for path, names in _PARAMETERS.items():
        door = system.analytics if "analytics" in path else system.shortener
        asked = [
            f"{path.format(known=known)}?{name}={value}{more}"
            for name, value, more in itertools.product(names, _ODD_VALUES, ("", "&interval=hour", f"&{names[0]}=%00"))
        ]
        heads = [f"GET {target} HTTP/1.1\r\n".encode() + _END for target in asked]
        for target, answer in zip(asked, eight_at_once(partial(sent, door), heads), strict=True):
            assert status_of(answer) in (200, 422), (target, answer[:300])


async def test_ten_thousand_unknown_codes_are_ten_thousand_404s(system: System) -> None:
    where = urlsplit(system.shortener)
    numbers = iter(range(10_000))
    statuses: collections.Counter[int] = collections.Counter()

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        for number in numbers:
            writer.write(b"GET /nosuch%06d HTTP/1.1\r\nHost: s\r\n\r\n" % number)
            statuses[status_of(await asyncio.wait_for(reader.readuntil(b"}"), _LIMIT_SECONDS))] += 1
        writer.close()

    # Not more at once: who waits for a database for a second is told to come again, and that is no bad input's fault.
    await asyncio.gather(*(ask() for _ in range(16)))
    assert statuses == {404: 10_000}


# --- Bodies

BODIES = {
    "nothing": (b"", 400),
    "half of one": (b'{"url":"https://e.example/', 400),
    "no UTF-8": (b'{"url":"https://e.example/\xff\xfe"}', 400),
    "a NUL": (b'{"url":"https://e.example/\x00"}', 400),
    "a NUL in other words": (b'{"url":"https://e.example/\\u0000"}', 422),
    "half a surrogate": (b'{"url":"https://e.example/\\ud800"}', 400),
    "UTF-16": ('{"url":"https://e.example/"}'.encode("utf-16"), 400),
    "a byte order mark": (b'\xef\xbb\xbf{"url":"https://e.example/"}', 400),
    "ten thousand lists": (b"[" * 10_000, 400),
    "two thousand objects": (b'{"x":' * 2_000 + b"1" + b"}" * 2_000, 400),
    "sixteen thousand digits": (b'{"url":' + b"9" * 16_000 + b"}", 400),
    "a number beyond all": (b'{"url":"https://e.example/","x":1e999999}', 201),
    "a list": (b"[]", 422),
    "null": (b"null", 422),
    "a text": (b'"https://e.example/"', 422),
    "an address that is none": (b'{"url":"http://[::1"}', 422),
    "a time that is none": (b'{"url":"https://e.example/","expires_at":"2026-02-30T25:61:61Z"}', 422),
    "a time before time": (b'{"url":"https://e.example/","expires_at":"0000-00-00T00:00:00Z"}', 422),
    "the last moment": (b'{"url":"https://e.example/","expires_at":"9999-12-31T23:59:59.999999-14:00"}', 422),
    "a code with a NUL": (b'{"url":"https://e.example/","code":"cat\\u0000"}', 422),
    "seventeen KiB": (b'{"url":"https://e.example/' + b"a" * 17_408 + b'"}', 413),
    "a megabyte": (b" " * 1_048_576, 413),
}


@pytest.mark.parametrize("name", BODIES)
def test_every_body_is_answered(system: System, name: str) -> None:
    body, status = BODIES[name]
    head = b"%s %s HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" + _END
    answer = sent(system.shortener, head % (b"POST", b"/api/v1/urls", len(body)), body)
    assert status_of(answer) == status, answer[:300]
    path = f"/api/v1/urls/{made(system)}".encode()
    for method in (b"PUT", b"PATCH"):
        answer = sent(system.shortener, head % (method, path, len(body)), body)
        assert 200 <= status_of(answer) < 500, answer[:300]


@pytest.mark.parametrize("headers", [b"Content-Encoding: gzip", b"Content-Type: text/plain", b"Idempotency-Key: \xff"])
def test_a_body_under_odd_headers_is_answered(system: System, headers: bytes) -> None:
    body = b'\x1f\x8b\x08{"url":"https://e.example/"}' if b"gzip" in headers else b'{"url":"https://e.example/"}'
    head = b"POST /api/v1/urls HTTP/1.1\r\n%s\r\nContent-Length: %d\r\n" % (headers, len(body))
    head += b"" if b"Type" in headers else b"Content-Type: application/json\r\n"
    assert 400 <= status_of(sent(system.shortener, head + _END, body)) < 500


def test_a_chunked_body_over_the_limit_is_refused(system: System) -> None:
    head = b"POST /api/v1/urls HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + _END
    answer = sent(system.shortener, head, *(b"1000\r\n" + b"a" * 4096 + b"\r\n" for _ in range(16)))
    assert status_of(answer) == 413


def test_who_leaves_in_the_middle_of_a_body_leaves_nothing_behind(system: System) -> None:
    head = b"POST /api/v1/urls HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n" + _END
    for _ in range(20):
        answer = sent(system.shortener, head, b'{"url":', leaves=True)
        assert answer == b"" or status_of(answer) < 500


# --- What the documents promise

CHECKS: Any = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
    allow_header_conformance,
]
BOUNDED = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def hold_to_document(url: str, mode: GenerationMode) -> int:
    """Ask each operation of the document with made-up requests, as it wants them or not; how many were asked."""
    asked = 0
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        assert isinstance(found, Ok)

        @BOUNDED
        @given(case=found.ok().as_strategy(generation_mode=mode))
        def hold(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=CHECKS, allow_redirects=False, timeout=_LIMIT_SECONDS)

        try:
            hold()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # nothing can be wrong where nothing is asked for
    return asked


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("door", ["shortener", "analytics"])
def test_a_service_answers_as_its_document_says(system: System, door: str, mode: GenerationMode) -> None:
    assert hold_to_document(getattr(system, door), mode) >= 25
