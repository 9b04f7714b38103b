"""Pages that can become false: links, generated pages, and names that the code knows."""

import re
import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import metrics_page, picture
from urlshortener import cli, errors
from urlshortener.services import http
from urlshortener.settings import TABLE

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_OTHER_FILES = "\n".join(
    path.read_text()
    for pattern in ("k8s/**/*.y*ml", "k8s/**/*.env", "scripts/*", "Makefile", "docker/*", "compose.yaml")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    folders = (ROOT, ROOT / "src" / "urlshortener", page.parent)
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|lua|md|json|yaml|tsv))`", page.read_text()):
        assert any((folder / name).exists() for folder in folders), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    known = {setting.name for setting in TABLE} | {f"{setting.name}_FILE" for setting in TABLE}
    known |= set(re.findall(r'"([A-Z]+_[A-Z_]+)"', CODE)) | set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", _OTHER_FILES))
    kernel = {name for name in dir(socket) if name.startswith(("SO_", "TCP_"))}
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[^`]*)?`", page.read_text())) <= known | kernel


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_is_taken(page: Path) -> None:
    parser = cli._parser()
    for line in re.findall(
        r"(?:^ *|`|-- )urlshortener ((?:[\w-]+(?: --?[\w-]+| \[?[\w-]+\]?)*))", page.read_text(), re.M
    ):
        words = line.replace("[", "").replace("]", "").replace(" N", " 2").replace(" SECONDS", " 60").split()
        try:
            parser.parse_args(words)
        except SystemExit as end:
            assert end.code == 0, line  # --help and --version end it too


def test_the_readme_and_the_changelog_name_every_command() -> None:
    for page in ("README.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text()
        for command in cli.COMMANDS:
            assert re.search(rf"`(?:urlshortener )?{command}\b|^urlshortener {command}$|make {command}$", text, re.M), (
                command
            )


def test_the_pages_of_decisions_are_numbered_without_a_gap() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert [re.match(r"# (\d+)\. ", page.read_text())[1] for page in pages] == list(map(str, numbers))  # type: ignore[index]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_tools_of_the_page_of_dependencies_are_locked() -> None:
    page = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text()
    for lock, rows in zip(
        ("requirements.lock", "requirements-dev.lock"), page.split("For development only"), strict=True
    ):
        locked = (ROOT / lock).read_text()
        for row in re.findall(r"^\| (?!library|tool|---)(.*?) \|", rows, re.M):
            for name in row.split(", "):
                assert re.search(rf"^{name.split()[0]}(?:-\w+)?==", locked, re.M), name


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
    inner = {"WRONG_SETTING", "UNAVAILABLE"}  # no visitor gets these as they are
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
