"""The tables of a Markdown page, as facts that can be looked up."""

from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
OUR_PAGE = CHECKOUT / "docs" / "infrastructure.md"
ENVIRONMENTS = ("dev", "staging", "prod")


@dataclass(frozen=True)
class Table:
    """What stands under one heading: rows by the first cell, cells by the head of their column."""

    heading: str
    rows: dict[str, dict[str, str]]

    def __getitem__(self, row: str) -> dict[str, str]:
        return self.rows[row]


def tables(page: str) -> dict[str, Table]:
    """Every table by its heading. Two tables under one heading are a mistake: one would hide the other."""
    found: dict[str, Table] = {}
    heading, columns = "", list[str]()
    for line in page.splitlines():
        if line.startswith("#"):
            heading, columns = line.lstrip("# "), []
        elif not line.startswith("|"):
            columns = []
        elif not columns:
            assert heading not in found, f"a second table under {heading!r}"
            columns = _cells(line)
            found[heading] = Table(heading, {})
        elif not set(line) <= set("|-: "):
            cells = dict(zip(columns, _cells(line), strict=True))
            name = cells[columns[0]]
            assert name not in found[heading].rows, f"{name!r} stands twice under {heading!r}"
            found[heading].rows[name] = cells
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "").replace("**", "") for cell in line.strip().strip("|").split("|")]


def ours() -> dict[str, Table]:
    return tables(OUR_PAGE.read_text())
