"""Curves as SVG, drawn by hand: readable on white and on black, and the same bytes for the same numbers."""

import math
from collections.abc import Sequence
from html import escape

from bench.harness.results import Curve

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 50, 50
_STYLE = """
  text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } .grid { stroke: #ccc } .axis { stroke: #222 }
  .line { fill: none; stroke-width: 2 } .c0 { stroke: #06c; fill: #06c } .c1 { stroke: #c50; fill: #c50 }
  .c2 { stroke: #080; fill: #080 } .c3 { stroke: #909; fill: #909 } .line { fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .grid { stroke: #444 } .axis { stroke: #ddd } .c0 { stroke: #6af; fill: #6af }
    .c1 { stroke: #f95; fill: #f95 } .c2 { stroke: #6d6; fill: #6d6 } .c3 { stroke: #d7d; fill: #d7d }
    .line { fill: none }
  }
"""


def svg(curve: Curve) -> str:
    """The horizontal axis is logarithmic if it spans more than a factor of 20; the vertical one begins at 0."""
    xs = sorted({x for line in curve.lines.values() for x, _ in line})
    top = _round_up(max(y for line in curve.lines.values() for _, y in line))
    across = _across(xs)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(curve.title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="20">{escape(curve.title)}</text>',
        f'<text x="{_LEFT}" y="40">{escape(curve.up)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(curve.across)}</text>',
    ]
    for step in range(5):
        value = top * step / 4
        y = _up(value, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_words(value)}</text>')
    for x, place in zip(xs, across, strict=True):
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - 28}" text-anchor="middle">{_words(x)}</text>')
    place_of = dict(zip(xs, across, strict=True))
    for number, (name, line) in enumerate(curve.lines.items()):
        points = [(place_of[x], _up(y, top)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{number % 4}" points="{path}"/>')
        parts += [f'<circle class="c{number % 4}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
        left = _WIDTH - _RIGHT - 130 * (len(curve.lines) - number)
        parts.append(f'<circle class="c{number % 4}" cx="{left}" cy="36" r="4"/>')
        parts.append(f'<text x="{left + 10}" y="40">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _across(xs: Sequence[float]) -> list[float]:
    """Where they are, from the left."""
    if len(xs) == 1:
        return [(_LEFT + _WIDTH - _RIGHT) / 2]
    is_log = xs[-1] > 20 * xs[0] > 0
    scaled = [math.log(x) if is_log else x for x in xs]
    width = _WIDTH - _LEFT - _RIGHT - 40
    return [_LEFT + 20 + width * (x - scaled[0]) / (scaled[-1] - scaled[0]) for x in scaled]


def _up(y: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / top


def _round_up(value: float) -> float:
    """To 1, 2, 4 or 8 of its power of ten."""
    power = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(float(step * power) for step in (1, 2, 4, 8, 10) if step * power >= value)


def _words(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
