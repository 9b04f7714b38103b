"""The fast way and the ordinary way are one: the same bytes, events and spans, whatever a client sends."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.services.two_ways import BROWSER, INGRESS, PROXY, STRANGER, Both, Side, asking, fast_ones


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("spools"))


@pytest.fixture(scope="module")
def both_traced(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("spools"), ratio=1)


# what goes the fast way


@pytest.mark.parametrize(
    ("peer", "asked"),
    [
        (STRANGER, asking("cat")),
        (STRANGER, asking("cat", BROWSER + INGRESS)),
        (PROXY, asking("cat", BROWSER + INGRESS)),
        (PROXY, asking("cat", INGRESS.lower())),
        (PROXY, asking("cat", b"X-Forwarded-For: 6.6.6.6, 2001:db8:1::7 , 10.1.2.3\r\n")),
        (PROXY, asking("cat", b"X-Forwarded-For: unknown\r\n")),
        ("2001:db8:10::1", asking("cat", INGRESS)),
        (STRANGER, asking("cat", b"")),
        (STRANGER, asking("cat?utm=1&b=/%20?", b"Host: s.example\r\nConnection: keep-alive\r\n")),
        (STRANGER, asking("A-_9", b'user-agent: \xff\xc3\xa9 "quoted" \\ \t end\r\nREFERER: \xe2\x82\xac\r\n')),
        (STRANGER, asking("x" * 64)),
        (STRANGER, asking("soon")),
    ],
)
def test_a_plain_request_for_a_known_link_takes_the_fast_way(both: Both, peer: str, asked: bytes) -> None:
    assert fast_ones(lambda: both.say(peer, asked)) == 1
    answer, is_closed, event, _ = both.say(peer, asked)
    assert answer.startswith(b"HTTP/1.1 307 ") and not is_closed and event


def test_what_a_proxy_tells_is_in_the_event(both: Both) -> None:
    event = both.say(PROXY, asking("cat", BROWSER + INGRESS)).events
    assert b'"ip_address":"198.51.100.0"' in event
    assert b'"request_id":"0123456789abcdef0123456789abcdef"' in event
    event = both.say(STRANGER, asking("cat", BROWSER + INGRESS)).events
    assert b'"ip_address":"203.0.113.0"' in event and b"request_id" not in event


@pytest.mark.parametrize("named", [b"unknown", b"6.6.6.6, unknown", b"10.0.0.1"])
def test_where_a_proxy_names_nobody_the_proxy_itself_is_the_caller(both: Both, named: bytes) -> None:
    told = [both.say(peer, asking("cat", b"X-Forwarded-For: %b\r\n" % named)) for peer in (PROXY, "10.2.3.4") * 2]
    assert [b'"ip_address":"10.2.3.0"' in one.events for one in told] == [False, named != b"10.0.0.1"] * 2


def test_plain_requests_in_one_piece_take_it_together(both: Both) -> None:
    assert fast_ones(lambda: both.say(STRANGER, asking("cat") * 3, asking("soon"))) == 4


@pytest.mark.parametrize(
    "asked",
    [
        asking("cat").replace(b"GET", b"HEAD"),
        asking("cat").replace(b"GET", b"get"),
        asking("cat").replace(b"HTTP/1.1", b"HTTP/1.0"),
        asking("cat").replace(b"HTTP/1.1", b"http/1.1"),
        asking("cat", b"Connection: close\r\n"),
        asking("cat", b"Content-Length: 2\r\n") + b"ab",
        asking("cat", b"Content-Length: 0\r\n"),
        asking("cat", b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        asking("cat", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        asking("cat", b"Expect: 100-continue\r\n"),
        asking("cat", b"User-Agent: a\r\nuser-agent: b\r\n"),
        asking("cat", b"Referer:\r\n"),
        asking("cat", b"Referer:   a\r\n"),
        asking("cat", b"Referer: a \r\n"),
        asking("cat", b"User-Agent: " + b"a" * 513 + b"\r\n"),
        asking("cat", b"X: " + b"a" * 17_000 + b"\r\n"),
        asking("cat", b"X: a\nContent-Length: 5\r\n"),
        asking("cat", b"X: a\r\r\n"),
        asking("cat", b"X: a\x00b\r\n"),
        asking("cat", b"X: a\r\n folded\r\n"),
        asking("cat", b"X : a\r\n"),
        asking("cat", b": a\r\n"),
        asking("cat", b"X\r\n"),
        asking("cat").replace(b"\r\n", b"\n"),
        b"GET /cat HTTP/1.1\n\r\n\r\n\r",
        asking("cat") + b"GARBAGE\r\n\r\n",
        asking("cat") + b"GET /c",
        asking("cat") + asking("cold"),
        b"\r\n" + asking("cat"),
        asking("cat#x"),
        asking("cat%20"),
        asking("/cat"),
        asking("x" * 65),
        asking("http://s.example/cat"),
        asking("cold"),
        asking("unknown"),
        asking("past"),
        asking("off"),
        asking("gone"),
        asking("health"),
        asking("docs"),
    ],
)
@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_all_else_takes_the_ordinary_way(both: Both, peer: str, asked: bytes) -> None:
    assert fast_ones(lambda: both.say(peer, asked)) == 0


@pytest.mark.parametrize(
    "headers",
    [
        INGRESS + b"x-forwarded-for: 1.2.3.4\r\n",
        INGRESS + b"x-edge-request-id: two\r\n",
        b"X-Edge-Request-Id: a,b\r\n",
        b'X-Edge-Request-Id: a"b\r\n',
        b"traceparent: rubbish\r\n",
        b"traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\n",
        b"traceparent: 01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    ],
)
def test_what_a_proxy_may_say_once_and_in_order_goes_the_ordinary_way_otherwise(both: Both, headers: bytes) -> None:
    assert fast_ones(lambda: both.say(PROXY, asking("cat", headers))) == 0
    assert fast_ones(lambda: both.say(STRANGER, asking("cat", headers))) == 1


@pytest.mark.parametrize("accept", [b"*/*", b"text/html", b"application/json;q=1, text/html;q=0.5"])
def test_who_may_not_leave_because_no_broker_has_the_access_is_told_so_in_the_same_words(
    tmp_path: Path, accept: bytes
) -> None:
    strict = Both(tmp_path, strict=True)
    answer, is_closed, event, _ = strict.say(STRANGER, asking("cat", b"Accept: " + accept + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in answer and event and not is_closed


def test_each_of_several_who_may_not_leave_is_told_so_as_he_asked(tmp_path: Path) -> None:
    accepting = [asking("cat", b"Accept: " + what + b"\r\n") for what in (b"text/html", b"application/json")]
    answers = Both(tmp_path, strict=True).say(STRANGER, b"".join(accepting)).answers
    assert (answers.count(b"<!doctype html>"), answers.count(b'"code":"')) == (1, 1)


def test_a_request_that_is_logged_takes_the_ordinary_way(tmp_path: Path) -> None:
    drawn = iter([False, True])
    side = Side(tmp_path, is_fast=True)
    side.redirects._is_logged = lambda: next(drawn)
    assert fast_ones(lambda: asyncio.run(side.says(STRANGER, [asking("cat"), asking("cat")]))) == 1


def test_a_head_in_pieces_and_what_comes_after_it(both: Both) -> None:
    head = asking("cat")
    for cut in (1, 20, len(head) - 1):
        assert fast_ones(lambda at=cut: both.say(STRANGER, head[:at], head[at:], head)) == 1  # type: ignore[misc]


ODD = [
    asking("cat")[:30],
    asking("cat", b"X: a\nContent-Length: 5\r\n"),
    asking("cat", b"X: a\rb\r\n"),
    asking("cat", b"X: a\x00b\r\n"),
    asking("cat")[:-1],
    b"\n" + asking("cat"),
    asking("cat").replace(b"\r\n", b"\n"),
    asking("unknown"),
    asking("cold"),
    b"POST /api/v1/urls HTTP/1.1\r\nHost: s.example\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("odd", ODD)
def test_who_asks_in_the_same_turn_as_something_odd_takes_the_fast_way_all_the_same(both: Both, odd: bytes) -> None:
    plain = [(STRANGER, asking("cat")), (PROXY, asking("soon", BROWSER + INGRESS))]
    assert fast_ones(lambda: both.tell([plain[0], (STRANGER, odd), plain[1], (PROXY, odd), plain[0]])) == 3


def test_more_than_are_taken_at_a_time_are_taken_in_one_turn(both: Both) -> None:
    many = [(peer, asking(code, BROWSER + INGRESS)) for peer in (PROXY, STRANGER) for code in ["cat", "soon"] * 100]
    many[:: len(many) // 3] = [(STRANGER, odd) for odd in ODD[:4]]
    assert fast_ones(lambda: both.tell(many)) == 396


def test_two_odd_ones_in_a_turn_do_not_make_up_for_each_other(both: Both) -> None:
    halves = [asking("cat", b"X: a\r")[:-2], b"\n" + asking("cat"), asking("cat", b"X: a\nb\r\n")]
    assert fast_ones(lambda: both.tell([(STRANGER, half) for half in halves])) == 0


@pytest.mark.parametrize(
    "pieces",
    [
        [asking("cold"), asking("cat"), asking("soon")],
        [asking("cat"), asking("cold"), asking("soon")],
        [asking("cat")[:30], asking("cat")[30:], asking("soon")],
        [asking("cat", b"Content-Length: 5\r\n"), b"abc", b"de" + asking("soon")],
    ],
)
def test_what_comes_behind_something_that_is_not_read_yet_waits_for_it(both: Both, pieces: list[bytes]) -> None:
    assert both.fast.is_told_at_once(pieces) == both.ordinary.is_told_at_once(pieces)


@pytest.mark.parametrize("piece", [asking("cat"), asking("cat") * 2, asking("cold"), asking("cat")[:30]])
def test_who_is_not_read_yet_when_the_door_closes_is_answered_as_ever(both: Both, piece: bytes) -> None:
    answers, is_closed = both.fast.is_told_at_once([piece], is_shut_down=True)
    assert (answers, is_closed) == both.ordinary.is_told_at_once([piece], is_shut_down=True)
    assert is_closed


# hypothesis

_CODES = st.sampled_from(
    ["cat"] * 8 + ["A-_9", "soon", "past", "off", "gone", "cold", "unknown", "api", "cat/", "c%61t"]
)
_TARGETS = st.builds(
    lambda code, query: code + query, _CODES, st.sampled_from(["", "", "?q=1", "?", "?a b", "#f", "??"])
)
_WORDS = st.text('abcXYZ019 -_,;:/."\\\t\x00\r\né\xff', max_size=12).map(lambda text: text.encode("latin-1"))
_NAMES = st.sampled_from(
    [
        b"Host",
        b"Accept",
        b"user-agent",
        b"User-Agent",
        b"REFERER",
        b"X-Forwarded-For",
        b"x-edge-request-id",
        b"X y",
        b"",
    ]
)
_LINES = st.one_of(
    st.sampled_from([line + b"\r\n" for line in (BROWSER + INGRESS).split(b"\r\n") if line]),
    st.sampled_from(
        [
            b"Connection: keep-alive\r\n",
            b"connection: Keep-Alive\r\n",
            b"Connection: close\r\n",
            b"Connection: upgrade\r\nUpgrade: h2c\r\n",
            b"Proxy-Connection: close\r\n",
            b"Content-Length: 0\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"X-Forwarded-For: 1.2.3.4, 10.9.9.9\r\n",
            b"X-Forwarded-For: 2001:db8::1\r\n",
            b"X-Edge-Request-Id: an id\r\n",
            b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
            b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03\r\n",
            b"tracestate: ingress=1,edge=2\r\n",
            b"TraceState:a=b \r\n",
        ]
    ),
    st.builds(
        lambda name, blank, value: name + b":" + blank + value + b"\r\n",
        _NAMES,
        st.sampled_from([b" ", b"", b"  "]),
        _WORDS,
    ),
)
_HEADS = st.builds(
    lambda method, target, version, lines: b"%b /%b %b\r\n%b\r\n" % (method, target.encode(), version, b"".join(lines)),
    st.sampled_from([b"GET"] * 8 + [b"HEAD", b"POST", b"get"]),
    _TARGETS,
    st.sampled_from([b"HTTP/1.1"] * 10 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTp/1.1"]),
    st.lists(_LINES, max_size=8),
)
_SPOILT = st.tuples(
    st.integers(0, 400),
    st.integers(0, 3),
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b"\x7f", b"a", b""]),
)


def spoilt(data: bytes, spoils: list[tuple[int, int, bytes]]) -> bytes:
    """With some bytes in the middle replaced by others."""
    for at, length, instead in spoils:
        data = data[:at] + instead + data[at + length :]
    return data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [piece for start, end in pairwise(edges) if (piece := data[start:end])]


@pytest.mark.parametrize("ways", ["both", "both_traced"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    peer=st.sampled_from([PROXY, STRANGER]),
    heads=st.lists(_HEADS, min_size=1, max_size=4),
    spoils=st.lists(_SPOILT, max_size=2) | st.just([]),
    places=st.lists(st.integers(0, 1500), max_size=3) | st.just([]),
)
def test_whatever_comes_both_ways_answer_the_same_bytes_and_tell_the_same_events_and_spans(
    request: pytest.FixtureRequest,
    ways: str,
    peer: str,
    heads: list[bytes],
    spoils: list[tuple[int, int, bytes]],
    places: list[int],
) -> None:
    request.getfixturevalue(ways).say(peer, *cut(spoilt(b"".join(heads), spoils), places))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from([PROXY, STRANGER]),
            st.builds(spoilt, st.lists(_HEADS, min_size=1, max_size=2).map(b"".join), st.lists(_SPOILT, max_size=1)),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_comes_in_one_turn_both_ways_answer_everybody_the_same(
    both: Both, pieces: list[tuple[str, bytes]]
) -> None:
    both.tell([(peer, piece or b"GET") for peer, piece in pieces])
