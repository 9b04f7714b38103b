"""docs/api.md, held to the services: its routes are the documents' routes, its examples print what it says."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.journeys.systems import System, all_in_one
from urlshortener.events.event import EventId, decode
from urlshortener.links.code import RESERVED

PAGE = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^\$ (.*)\n(.*)$", PAGE, re.M)


@pytest.fixture(scope="module")
def running() -> Iterator[System]:
    system = all_in_one()
    try:
        system.start()
        yield system
    finally:
        system.close()


def routes_of_page(heading: str) -> set[str]:
    section = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    return {route for row in re.findall(r"^\| (`.*?) \| ", section, re.M) for route in re.findall(r"`(.*?)`", row)}


def routes_of_document(door: str) -> set[str]:
    paths = httpx.get(f"{door}/openapi.json", timeout=10).json()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_the_page_has_all_routes_of_the_documents_and_no_others(running: System) -> None:
    # the document has no HEAD: there it would be nothing but a second GET
    assert routes_of_page("shortener-service") == routes_of_document(running.shortener) | {"HEAD /{code}"}
    assert routes_of_page("analytics-service") == routes_of_document(running.analytics)
    assert httpx.head(f"{running.shortener}/nobody12", timeout=10).status_code == 404


def test_the_examples_print_what_the_page_says(running: System) -> None:
    assert len(EXAMPLES) > 8
    places = {"http://127.0.0.1:8080": running.shortener, "http://127.0.0.1:8081": running.analytics}
    for command, printed in EXAMPLES:
        done = subprocess.run(
            ["bash", "-c", _put(command, places)], capture_output=True, text=True, timeout=20, check=True
        )
        answer = _put(done.stdout.strip(), {real: written for written, real in places.items()})
        assert _without_chance(answer) == _without_chance(printed), command


def test_the_page_names_all_reserved_codes() -> None:
    words = PAGE.partition("Reserved codes, in capitals too:")[2].partition(".\n")[0]
    assert set(re.findall(r"`(.*?)`", words)) == RESERVED


def test_the_event_of_the_page_is_one() -> None:
    (event,) = decode(re.findall(r"^```json\n(.*)$", PAGE, re.M)[0].encode())
    assert event.id == EventId("0b5f3c1e9a7d4e62", 1)
    assert None not in (event.user_agent, event.ip_address, event.referer, event.visitor)


def _put(text: str, instead: dict[str, str]) -> str:
    for old, new in instead.items():
        text = text.replace(old, new)
    return text


def _without_chance(text: str) -> str:
    """Ids, and the times at which a link was made and changed, differ from run to run."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    return re.sub(r'_at":"20\d\d-[^"]*"', '_at":"TIME"', text)
