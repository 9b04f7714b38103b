"""What travels: an access event on the wire, and what may be known of who came."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlshortener.events.event import AccessEvent, EventId, NotAnEvent, Plain, decode, encode, encode_plain
from urlshortener.events.spool import Spool
from urlshortener.events.visitor import Visitors

_AT = datetime(2026, 11, 23, 10, 0, 0, 123456, UTC)
_EVENT = {"event_id": "019", "code": "cat", "accessed_at": "2026-11-23T10:00:00.123456Z"}


def _body(**changes: object) -> bytes:
    return json.dumps({**_EVENT, **changes}).encode()


headers = st.none() | st.text(min_size=1, max_size=100)


@given(user_agent=headers, referer=headers, seq=st.integers(0, 2**48 - 1), request=st.none() | st.just("r1"))
def test_what_was_written_is_read(user_agent: str | None, referer: str | None, seq: int, request: str | None) -> None:
    body = encode("epoch-1", seq, "019", "cat", _AT, user_agent, "192.0.2.0", referer, "9f2c", request)
    assert b"\n" not in body
    (event,) = decode(body)
    assert event == AccessEvent(EventId("epoch-1", seq), "cat", _AT, user_agent, "192.0.2.0", referer, "9f2c", request)
    assert decode(b"[" + body + b"," + body + b"]") == [event, event]


@given(
    header=st.none() | st.text(st.characters(max_codepoint=255), min_size=1, max_size=100),
    seq=st.integers(0, 2**48 - 1),
    request=st.none() | st.just("r1"),
    microsecond=st.sampled_from([0, 1, 100, 999_999]),
)
def test_what_is_written_plainly_is_what_is_written(
    header: str | None, seq: int, request: str | None, microsecond: int
) -> None:
    at = _AT.replace(microsecond=microsecond)
    as_json = msgspec.json.encode(header)
    more = b"" if request is None else b',"request_id":"r1"'
    plain: Plain = (b"cat", as_json, b'"192.0.2.0"', as_json, b"9f2c", more)
    assert encode_plain("epoch-1", seq, "019-", at, [plain, plain]) == [
        encode("epoch-1", n, f"019-{n % 2**32:08x}", "cat", at, header, "192.0.2.0", header, "9f2c", request)
        for n in (seq, seq + 1)
    ]


def test_header_bytes_that_are_no_text_are_written_all_the_same() -> None:
    (event,) = decode(encode("e", 0, "019", "cat", _AT, "a\udcffb", None, None, None))
    assert event.user_agent == "a?b"


def test_long_headers_are_cut() -> None:
    (event,) = decode(encode("e", 0, "019", "cat", _AT, "a" * 5000, None, "b" * 5000, None))
    assert (len(event.user_agent or ""), len(event.referer or "")) == (512, 1024)


def test_an_event_without_numbers_is_known_by_its_id() -> None:
    assert decode(_body())[0].id == "019"


def test_an_event_has_a_request_only_where_the_edge_told_one() -> None:
    assert b"request_id" not in encode("e", 0, "019", "cat", _AT, None, None, None, None)
    for told in (None, "4bf9", "a" * 64):
        (event,) = decode(_body(epoch="e", seq=0, request_id=told))
        assert event.request_id == told


def test_a_request_that_a_stranger_tells_is_an_unknown_field() -> None:
    assert decode(_body(request_id="4bf9"))[0].request_id is None


def test_unknown_fields_are_ignored() -> None:
    assert decode(_body(mood="curious"))[0].code == "cat"


@pytest.mark.parametrize("anything", [None, "", 7, "a b", "a,b", "a" * 65, ["a"], {"a": 1}])
def test_what_is_no_request_or_trace_of_ours_is_as_good_as_none(anything: object) -> None:
    (event,) = decode(_body(epoch="e", seq=0, request_id=anything, traceparent=anything))
    assert (event.code, event.request_id) == ("cat", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"[1]",
        _body(code=7),
        _body(code=""),
        _body(code="a" * 65),
        _body(code="a b"),
        _body(code="cat\n"),
        _body(event_id=""),
        _body(event_id="a" * 65),
        _body(event_id="\u0000"),
        _body(event_id=None),
        _body(accessed_at="yesterday"),
        _body(accessed_at="2026-11-23T10:00:00"),
        _body(accessed_at=1),
        _body(accessed_at="0001-01-01T00:00:00+12:00"),
        _body(accessed_at="1969-12-31T23:59:59Z"),
        _body(accessed_at="2100-01-01T00:00:00Z"),
        _body(epoch="e"),
        _body(seq=1),
        _body(epoch="e", seq=-1),
        _body(epoch="e", seq=2**48),
        _body(epoch="e", seq=1.5),
        _body(epoch="e e", seq=1),
        _body(epoch="e" * 65, seq=1),
        b"[" + _body() + b"," + _body(code="") + b"]",
        b'{"event_id":"x","code":"cat","accessed_at":"2026-11-23T10:00:00Z","referer":"\\ud800"}',
        b" " * (8 * 1024 * 1024 + 1),
    ],
)
def test_what_is_not_an_event_is_refused_without_showing_its_content(body: bytes) -> None:
    with pytest.raises(NotAnEvent) as refused:
        decode(body)
    assert str(refused.value)
    assert "yesterday" not in str(refused.value)


@pytest.mark.parametrize(
    ("full", "cut"),
    [
        ("192.0.2.77", "192.0.2.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("::ffff:192.0.2.77", "192.0.2.0"),
        ("fe80::1%eth0", "fe80::"),
        ("not an address", None),
        (None, None),
    ],
)
def test_an_address_is_cut(full: str | None, cut: str | None) -> None:
    assert Visitors("secret-of-all-replicas", keep_full_address=False).address(full) == cut


def test_an_address_is_kept_whole_where_a_setting_says_so() -> None:
    assert Visitors("secret-of-all-replicas", keep_full_address=True).address("192.0.2.77") == "192.0.2.77"


def test_a_visitor_is_the_same_all_day_on_every_replica_and_nobody_tomorrow() -> None:
    here, there = (Visitors("secret-of-all-replicas", keep_full_address=False) for _ in range(2))
    first = here.visitor("192.0.2.77", "Firefox", _AT)
    assert there.visitor("192.0.2.77", "Firefox", _AT + timedelta(hours=13)) == first
    assert here.visitor("192.0.2.77", "Firefox", _AT + timedelta(days=1)) != first
    assert here.visitor("192.0.2.77", "Firefox", _AT) == first
    assert here.visitor("192.0.2.78", "Firefox", _AT) != first
    assert here.visitor("192.0.2.77", "Chrome", _AT) != first
    assert Visitors("another-secret-word", keep_full_address=False).visitor("192.0.2.77", "Firefox", _AT) != first


async def test_no_file_of_the_spool_holds_the_address(tmp_path: Path) -> None:
    visitors = Visitors("secret-of-all-replicas", keep_full_address=False)
    spool = Spool(tmp_path, 1 << 20)
    address, agent = "198.51.100.213", "Firefox"
    await spool.append("cat", _AT, agent, visitors.address(address), None, visitors.visitor(address, agent, _AT))
    written = b"".join(path.read_bytes() for path in tmp_path.glob("*/*"))
    assert b"198.51.100.0" in written
    assert address.encode() not in written
