"""Pages for people: who gets one, and that it needs nothing from elsewhere."""

import re

import httpx
import pytest

from urlshortener.services.pages import wants_page


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html", True),
        ("TEXT/HTML ; q=0.5", True),
        ("application/xhtml+xml", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("application/json, text/html", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=nonsense, */*", False),
        (";;;,,,q=", False),
        ("\xff", False),
    ],
)
def test_who_prefers_a_page_gets_one(accept: str, wants: bool) -> None:
    assert wants_page([accept]) is wants


def test_several_accept_headers_are_one_list() -> None:
    assert wants_page(["application/json;q=0.1", "text/html"])


@pytest.mark.parametrize("path", ["/", "/docs", "/unknown"])
async def test_a_page_loads_nothing_and_runs_nothing(door: tuple[str, httpx.AsyncClient], path: str) -> None:
    _, client = door
    answer = await client.get(path, headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    html = answer.text
    assert re.findall(r"<(script|link|img|iframe|object|embed|base|form)\b", html) == []
    assert re.findall(r"\b(?:src|srcset|style|on\w+)=", html) == []
    assert "@import" not in html and "url(" not in html
    assert all(target.startswith(("#", "/")) for target in re.findall(r'href="([^"]*)"', html))


async def test_the_reading_page_tells_every_route_of_the_document(shortener: httpx.AsyncClient) -> None:
    html = (await shortener.get("/docs")).text
    document = (await shortener.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in html
    anchors = set(re.findall(r'id="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= anchors
