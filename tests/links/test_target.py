"""Which addresses a link may have, and how they are written down."""

import ada_url
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urlshortener.errors import InvalidUrl
from urlshortener.links.target import LONGEST_TARGET_BYTES, is_safe_location, normalised


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com:443/a", "https://example.com/a"),
        ("http://example.com:80", "http://example.com/"),
        ("http://example.com:8080/?q#f", "http://example.com:8080/?q#f"),
        ("https://example.com/a/./b/../c", "https://example.com/a/c"),
        ("https://example.com/%7ea%2Fb?x=%20&y=+", "https://example.com/%7ea%2Fb?x=%20&y=+"),
        ("https://example.com/\"<>`{}'", "https://example.com/%22%3C%3E%60%7B%7D'"),
        ("https://bücher.example/ä?ö#ü", "https://xn--bcher-kva.example/%C3%A4?%C3%B6#%C3%BC"),
        ("https://日本語.jp/", "https://xn--wgv71a119e.jp/"),
        ("http://localhost:3000/x", "http://localhost:3000/x"),
        ("http://192.0.2.1/", "http://192.0.2.1/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://[2001:DB8::0:1]:80/x", "http://[2001:db8::1]/x"),
        ("https://example.com./", "https://example.com./"),
        ("https://example.com/?u=https://a:b@c.example/", "https://example.com/?u=https://a:b@c.example/"),
        ("https://example.com/#a#b", "https://example.com/#a#b"),
        ("https:example.com", "https://example.com/"),
    ],
)
def test_an_address_is_written_as_a_browser_sends_it(given_text: str, kept: str) -> None:
    assert normalised(given_text) == kept
    assert is_safe_location(kept)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("example.com", "not an address"),
        ("//example.com/", "not an address"),
        ("javascript:alert(1)", "http:// or https://"),
        ("data:text/html,x", "http:// or https://"),
        ("ftp://example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("java\nscript:alert(1)", "blank or a line end"),
        ("https://example.com/\r\nSet-Cookie:a", "blank or a line end"),
        (" https://example.com/", "blank"),
        ("https://example.com/a b", "blank"),
        ("https://example.com/a\u3000b", "blank"),
        ("https://example.com/\u2028", "blank"),
        ("https://example.com/\0", "control"),
        ("https://example.com/\x7f", "control"),
        ("https://example.com/\x85", "blank"),
        ("https://example.com/\x9b", "control"),
        ("https:\\\\example.com", "backslash"),
        ("https://example.com\\@evil.example/", "backslash"),
        ("https://user@example.com/", "user name"),
        ("https://user:password@example.com/", "user name"),
        ("https://:password@example.com/", "user name"),
        ("https://intranet/", "no dot"),
        ("https://intranet./", "no dot"),
        ("https://", "not an address"),
        ("https://./", "host"),
        ("https://a..example/", "host"),
        ("https://" + "a" * 64 + ".example/", "host"),
        ("https://" + "a." * 127 + "example/", "host"),
        ("https://exa%00mple.com/", "not an address"),
        ("https://[::1", "not an address"),
        ("https://example.com:65536/", "not an address"),
        ("https://256.1.1.1/", "not an address"),
        ("https://example.com/\ud800", "surrogate"),
        ("https://example.com/" + "a" * 2029, "longer than 2,048"),
        ("https://example.com/" + "ä" * 1014, "browsers send it"),
    ],
)
def test_an_address_that_no_link_may_have_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidUrl, match=reason):
        normalised(text)


def test_an_address_may_have_exactly_the_longest_length() -> None:
    text = "https://example.com/".ljust(LONGEST_TARGET_BYTES, "a")
    assert normalised(text) == text


_ADDRESSES = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP:", "https:/", "https:///"]),
    st.one_of(
        st.sampled_from(
            [
                "example.com",
                "[::1]",
                "0x7f.1",
                "xn--a.b",
                "bücher.example",
                "ẞ.de",
                "a@b.c",
                "a:b@c.d",
                "@e.f",
                "1.2.3.4.",
            ]
        ),
        st.text(),
    ),
    st.sampled_from(["", ":80", ":443", ":0", ":65535"]),
    st.one_of(st.just(""), st.builds("/{}".format, st.text())),
    st.one_of(st.just(""), st.builds("?{}".format, st.text())),
    st.one_of(st.just(""), st.builds("#{}".format, st.text())),
)


@given(st.one_of(st.text(), _ADDRESSES))
@example("https://example.com/%")
@example("https://example.com/?'\"")
def test_what_is_kept_is_safe_in_a_header_and_normal_already(text: str) -> None:
    try:
        kept = normalised(text)
    except InvalidUrl:
        return
    assert is_safe_location(kept)
    assert normalised(kept) == kept
    url = ada_url.URL(kept)  # as the parser itself takes it apart
    assert url.protocol in ("http:", "https:")
    assert not url.username and not url.password
    if url.host_type == ada_url.HostType.DEFAULT:
        assert url.hostname == "localhost" or "." in url.hostname.removesuffix(".")


@pytest.mark.parametrize("text", ["", "https://", "javascript:x", "https://a.b/ ", "https://a.b/\r\n", "https://a.b/ä"])
def test_a_row_that_predates_the_rules_is_not_a_location(text: str) -> None:
    assert not is_safe_location(text)
