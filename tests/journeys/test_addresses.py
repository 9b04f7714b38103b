"""A thousand addresses become links, and each leads where a browser would have gone by itself.

What a browser would do is in addresses.tsv, as Chromium told scripts/addresses.py.
"""

import contextlib
import http.client

import httpx
import pytest

from scripts import addresses
from tests.conftest import installed_program
from tests.journeys.load import eight_at_once
from tests.journeys.systems import System

LINKS = addresses.rows(addresses.ADDRESSES_FILE)
REFUSED = addresses.rows(addresses.REFUSED_FILE)


@pytest.fixture
def chromium() -> None:
    """To ask a real browser."""
    installed_program("chromium", "chromium")


def followed(system: System, code: str) -> str:
    """The bytes of `Location`, as they came: most clients would already have read an address in them."""
    connection = http.client.HTTPConnection(system.shortener.removeprefix("http://"), timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", f"/{code}")
        answer = connection.getresponse()
        assert answer.status == 307
        return answer.headers["Location"]


def test_the_file_has_the_thousand_addresses_of_its_script() -> None:
    assert [address for address, _ in LINKS] == addresses.accepted()
    assert len({address for address, _ in LINKS}) == 1_000
    assert [(address, reason) for address, _, reason in REFUSED] == list(addresses.REFUSED)


@pytest.mark.usefixtures("chromium")
def test_the_files_say_what_chromium_says() -> None:
    asked = [row[0] for row in (*LINKS, *REFUSED)]
    written = [row[1] for row in (*LINKS, *REFUSED)]
    assert list(zip(asked, addresses.ask_chromium(asked), strict=True)) == list(zip(asked, written, strict=True))


def test_every_link_leads_where_a_browser_would_have_gone(system: System) -> None:
    with httpx.Client(base_url=system.shortener, timeout=20) as client:

        def made_and_followed(address: str) -> tuple[str, str]:
            made = client.post("/api/v1/urls", json={"url": address})
            assert made.status_code == 201, (address, made.text)
            return made.json()["original_url"], followed(system, made.json()["code"])

        led = eight_at_once(made_and_followed, (address for address, _ in LINKS))
    assert [(row, to) for row, to in zip(LINKS, led, strict=True) if to != (row[1], row[1])] == []


def test_what_no_link_may_have_is_refused_with_the_reason(system: System) -> None:
    with httpx.Client(base_url=system.shortener, timeout=20) as client:
        answers = eight_at_once(
            lambda address: client.post("/api/v1/urls", json={"url": address}), (row[0] for row in REFUSED)
        )
    for (address, _, reason), answer in zip(REFUSED, answers, strict=True):
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (422, "INVALID_URL", "url"), address
        assert reason in problem["detail"], address


def test_a_bar_in_a_path_stays_as_the_standard_has_it(system: System) -> None:
    for address in addresses.BARS:
        made = httpx.post(f"{system.shortener}/api/v1/urls", json={"url": address}, timeout=10).json()
        assert followed(system, made["code"]) == address


@pytest.mark.usefixtures("chromium")
def test_chromium_escapes_a_bar_in_a_path() -> None:
    for address, href in zip(addresses.BARS, addresses.ask_chromium(addresses.BARS), strict=True):
        path, mark, rest = address.partition("?")
        assert href == path.replace("|", "%7C") + mark + rest
