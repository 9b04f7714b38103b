"""Draws docs/pictures/cluster.svg out of cluster.txt beside it, with the numbers of docs/infrastructure.md."""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
TEXT = DOCS / "pictures" / "cluster.txt"
PICTURE = TEXT.with_suffix(".svg")

_COLUMN, _ROW, _MARGIN, _BOX_HEIGHT = 66, 112, 16, 58
_NUMBER = r"\d+(?:\.\d+)?"

_LIGHT = {"ink": "#1f2328", "faint": "#59636e", "line": "#818b98", "paper": "#ffffff", "accent": "#0969da"}
_DARK = {"ink": "#f0f6fc", "faint": "#9198a1", "line": "#656c76", "paper": "#151b23", "accent": "#58a6ff"}
_SHAPES = """
    text { font: 13px system-ui, sans-serif; text-anchor: middle; }
    .title { font-weight: 600; }
    .else, .label, .frame text { font-size: 11.5px; }
    .frame text { text-anchor: start; }
    .frame rect { fill: none; stroke-dasharray: 4 4; }
    .arrow { stroke-width: 1.4; fill: none; marker-end: url(#head); }
    .label { stroke-width: 4px; paint-order: stroke; }"""
_COLOURS = """
    text {{ fill: {ink}; }}
    .else, .label, .frame text {{ fill: {faint}; }}
    .box rect {{ fill: {paper}; stroke: {line}; }}
    .frame rect {{ stroke: {line}; }}
    .arrow {{ stroke: {accent}; }}
    .label {{ stroke: {paper}; }}
    #head path {{ fill: {accent}; }}"""
# Follows the reader's choice of light or dark, also where it is shown as an image; on its own it has no background.
_STYLE = f"""{_SHAPES}{_COLOURS.format(**_LIGHT)}
    @media (prefers-color-scheme: dark) {{{_COLOURS.format(**_DARK)}
    }}
"""


@dataclass(frozen=True)
class Box:
    title: str
    left: float
    top: float
    width: float
    height: float

    def side(self, name: str) -> tuple[float, float]:
        """`bottom`, or `bottom+30`: thirty to the right of its middle."""
        match = re.fullmatch(r"(top|bottom|left|right)([+-]\d+)?", name)
        assert match, name
        middle, aside = (self.left + self.width / 2, self.top + self.height / 2), int(match[2] or 0)
        match match[1]:
            case "top":
                return middle[0] + aside, self.top
            case "bottom":
                return middle[0] + aside, self.top + self.height
            case "left":
                return self.left, middle[1] + aside
            case _:
                return self.left + self.width, middle[1] + aside


def _production() -> dict[str, str]:
    """The rows of the tables of environments (their column of production) and of settings."""
    page = (DOCS / "infrastructure.md").read_text()
    environments = page.partition("## Environments")[2].partition("\n## ")[0]
    settings = page.partition("## Settings")[2].partition("\n## ")[0]
    return dict(
        re.findall(r"^\| ([^|]+?) \| [^|]*\| [^|]*\| ([^|]+?) \|$", environments, re.MULTILINE)
        + re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", settings, re.MULTILINE)
    )


def picture() -> str:
    numbers = _production()
    text = re.sub(r"\{([^}]+)\}", lambda match: numbers[match[1]], _without_comments(TEXT.read_text()))
    places: dict[str, Box] = {}
    frames: list[str] = []
    boxes: list[str] = []
    arrows: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        kind, rest = line.split(maxsplit=1)
        if kind == "arrow":
            arrows.append(_arrow(rest, places))
            continue
        name, box = _place(kind, rest)
        places[name] = box
        (frames if kind == "frame" else boxes).append(_drawn(kind, box))
    width = max(box.left + box.width for box in places.values()) + _MARGIN
    height = max(box.top + box.height for box in places.values()) + _MARGIN
    shapes = "\n".join([*frames, *arrows, *boxes])
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="What runs in production, and who asks whom">\n'
        f"<!-- Made from cluster.txt by scripts/picture.py (make docs): do not edit. -->\n"
        f"<style>{_STYLE}</style>\n<defs>{head}"
        f'<path d="M0 0 8 4 0 8Z"/></marker></defs>\n{shapes}\n</svg>\n'
    )


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def _place(kind: str, rest: str) -> tuple[str, Box]:
    match = re.fullmatch(rf"(\w+)\s+({_NUMBER}),({_NUMBER}) ({_NUMBER})(?:×({_NUMBER}))?\s+(.+)", rest)
    assert match, rest
    name, column, row, columns, rows, title = match.groups()
    left, top = _MARGIN + float(column) * _COLUMN, _MARGIN + float(row) * _ROW
    if kind == "box":
        return name, Box(title, left, top, float(columns) * _COLUMN, _BOX_HEIGHT)
    height = float(rows) * _ROW - (_ROW - _BOX_HEIGHT) + 40
    return name, Box(title, left - 8, top - 24, float(columns) * _COLUMN + 8, height)


def _drawn(kind: str, box: Box) -> str:
    shape = f'<rect x="{box.left:g}" y="{box.top:g}" width="{box.width:g}" height="{box.height:g}" rx="8"/>'
    if kind == "frame":
        return (
            f'<g class="frame">{shape}<text x="{box.left + 10:g}" y="{box.top + 16:g}">{escape(box.title)}</text></g>'
        )
    title, _, more = box.title.partition(" | ")
    middle = box.left + box.width / 2
    lines = f'<text class="title" x="{middle:g}" y="{box.top + (25 if more else 34):g}">{escape(title)}</text>'
    if more:
        lines += f'<text class="else" x="{middle:g}" y="{box.top + 44:g}">{escape(more)}</text>'
    return f'<g class="box">{shape}{lines}</g>'


def _arrow(rest: str, places: dict[str, Box]) -> str:
    match = re.fullmatch(r"(\w+)\.(\S+)\s+(\w+)\.(\S+)(?:\s+(.+))?", rest)
    assert match, rest
    (x1, y1), (x2, y2) = places[match[1]].side(match[2]), places[match[3]].side(match[4])
    line = f'<path class="arrow" d="M{x1:g} {y1:g} {x2:g} {y2:g}"/>'
    if not match[5]:
        return line
    return f'{line}<text class="label" x="{(x1 + x2) / 2:g}" y="{(y1 + y2) / 2 + 4:g}">{escape(match[5])}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture())
