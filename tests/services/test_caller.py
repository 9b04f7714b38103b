"""Whom the doors believe about who asks."""

from ipaddress import ip_network
from typing import Any

import pytest

from urlshortener.services.caller import Proxies
from urlshortener.services.http import InvalidHost

PROXIES = Proxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def scope(peer: str | None, scheme: str = "http", **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"client": peer and (peer, 50000), "scheme": scheme, "headers": raw}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", " , ,", "10.0.0.1"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        (None, "198.51.100.1", None),
        ("a-socket", "198.51.100.1", None),
    ],
)
def test_forwarded_addresses_count_from_the_right_as_far_as_trust_reaches(
    peer: str | None, forwarded: str, client: str | None
) -> None:
    assert PROXIES.client(scope(peer, x_forwarded_for=forwarded)) == client


def test_several_headers_are_one_list() -> None:
    one = scope("10.0.0.1", x_forwarded_for="192.0.2.66")
    one["headers"].append((b"x-forwarded-for", b"198.51.100.1"))
    assert PROXIES.client(one) == "198.51.100.1"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    told = scope("10.0.0.1", x_forwarded_for="198.51.100.1", x_forwarded_host="evil.example", host="s.example")
    assert Proxies([]).client(told) == "10.0.0.1"
    assert Proxies([]).origin(told) == "http://s.example"


def test_scheme_and_host_are_those_that_a_trusted_proxy_was_asked() -> None:
    told = {"x_forwarded_proto": "https", "x_forwarded_host": "go.example:8443", "host": "inner:8080"}
    assert PROXIES.origin(scope("10.0.0.1", **told)) == "https://go.example:8443"
    assert PROXIES.origin(scope("203.0.113.7", **told)) == "http://inner:8080"


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@b", "a:b", "a:123456", "ü", "[::1", "a\r\nX: y", "a,b", "x" * 254]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidHost):
        PROXIES.origin(scope("203.0.113.7", host=host))


@pytest.mark.parametrize("host", ["s.example", "localhost:8080", "192.0.2.1:80", "[2001:db8::1]:8080", "my_service"])
def test_hosts_are_taken_as_they_are(host: str) -> None:
    assert PROXIES.origin(scope("203.0.113.7", host=host)) == f"http://{host}"


def test_a_scheme_that_is_none_of_the_web_is_refused() -> None:
    with pytest.raises(InvalidHost):
        PROXIES.origin(scope("10.0.0.1", host="s.example", x_forwarded_proto="javascript"))
