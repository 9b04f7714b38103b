"""Pages that can become false: links, generated pages, and names that the code knows."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import metrics_page, picture
from urlshortener import errors
from urlshortener.services import http

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_metrics_is_made_from_the_registry() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page(), "run `make docs`"


def test_the_picture_of_the_cluster_is_made_from_its_text_and_can_be_read_in_the_dark() -> None:
    drawn = picture.PICTURE.read_text()
    assert drawn == picture.picture(), "run `make docs`"
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in drawn


def test_the_page_of_the_contract_names_every_error_code() -> None:
    kinds: list[type] = [errors.UrlShortenerError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    inner = {"WRONG_SETTING", "REFUSED", "UNAVAILABLE", "CHANNEL_UNAVAILABLE"}  # no visitor gets these as they are
    codes = {
        vars(kind).get("code", "REFUSED") for kind in kinds if kind.__module__ in (errors.__name__, http.__name__)
    } - inner
    named = set(re.findall(r"^\| \d{3} \| `([A-Z_]+)`", (ROOT / "docs" / "api.md").read_text(), re.M))
    assert codes <= named
    assert named <= set(re.findall(r'"([A-Z_]+)"', CODE))


def test_the_log_events_of_the_operations_page_exist() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().split("## Logs")[1].split("\n## ")[0]
    events = re.findall(r"^\| `([a-z_]+)` \|", section, re.M)
    assert len(events) > 5
    for event in events:
        assert f'"{event}"' in CODE, event
