"""Curves as SVG, without a script or anything from elsewhere. Colours hold on a light and on a dark page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float | None]
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 96, 64, 8, 18
COLOURS = {
    "ok": "#2a9d5c",
    "failed": "#d64545",
    "p50": "#6b8fd6",
    "p99": "#c77d11",
    "waiting": "#8a63d2",
    "age": "#1f9aa8",
    "redirected": "#2a9d5c",
    "counted": "#6b8fd6",
    "oldest": "#c77d11",
    "spool": "#8a63d2",
    "queue": "#c77d11",
}


@dataclass(frozen=True)
class Panel:
    """One row: some curves over the same time."""

    title: str
    curves: Mapping[str, Sequence[Point]]
    unit: str = ""


def plot(panels: Sequence[Panel], from_seconds: float, until_seconds: float, harm_seconds: float) -> str:
    """Rows below each other over one time; the harm is shaded. Seconds count from its beginning."""
    scale = (_WIDTH - _LEFT - 10) / max(0.001, until_seconds - from_seconds)

    def x(at: float) -> float:
        return _LEFT + (at - from_seconds) * scale

    height = len(panels) * (_HEIGHT + _TOP) + _BOTTOM
    harm = max(1.5, harm_seconds * scale)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        ' font-family="system-ui,sans-serif" font-size="10" fill="#888">',
        f'<rect x="{x(0):.1f}" y="0" width="{harm:.1f}" height="{height - _BOTTOM}" fill="#d64545" opacity="0.15"/>',
    ]
    for row, panel in enumerate(panels):
        parts.append(_row(panel, row * (_HEIGHT + _TOP) + _TOP, x))
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100, 1000) if (until_seconds - from_seconds) / size <= 16)
    first = int(from_seconds // step + 1) * step
    for at in range(first, int(until_seconds) + 1, step):
        parts.append(f'<text x="{x(at):.1f}" y="{height - 5}" text-anchor="middle">{at} s</text>')
    return "".join([*parts, "</svg>"])


def _row(panel: Panel, top: float, x: Any) -> str:
    highest = max((value for curve in panel.curves.values() for _, value in curve if value is not None), default=0)
    highest = highest or 1
    bottom = top + _HEIGHT - 14
    legend = " · ".join(f'<tspan fill="{_colour(name)}">{name}</tspan>' for name in panel.curves)
    parts = [
        f'<text x="{_LEFT}" y="{top + 6}">{panel.title}: {legend}</text>',
        f'<text x="{_LEFT - 4}" y="{top + 18}" text-anchor="end">{_short(highest)}{panel.unit}</text>',
        f'<text x="{_LEFT - 4}" y="{bottom}" text-anchor="end">0</text>',
        f'<path d="M{_LEFT} {bottom}H{_WIDTH - 10}" stroke="#888" stroke-width="0.5"/>',
    ]
    for name, curve in panel.curves.items():
        path, pen_is_down = "", False
        for at, value in curve:
            if value is None:
                pen_is_down = False
                continue
            y = bottom - value / highest * (bottom - top - 12)
            path += f"{'L' if pen_is_down else 'M'}{x(at):.1f} {y:.1f}"
            pen_is_down = True
        if path:
            parts.append(f'<path d="{path}" fill="none" stroke="{_colour(name)}" stroke-width="1.3"/>')
    return "".join(parts)


def _colour(name: str) -> str:
    return COLOURS.get(name.split(" ", maxsplit=1)[0], "#888")


def _short(value: float) -> str:
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def plot_of(strike: Mapping[str, Any]) -> str:
    """Redirects, failures, latency, what waits, and how far the counts are behind."""
    curves = strike["curves"]
    size, first = curves["bin_seconds"], curves["from_seconds"]
    until = first + size * len(curves["ok"])

    def binned(values: Sequence[float | None], factor: float = 1.0) -> list[Point]:
        return [(first + (n + 0.5) * size, None if v is None else v * factor) for n, v in enumerate(values)]

    waiting = curves["waiting"]
    panels = [
        Panel(
            "redirects a second", {"ok": binned(curves["ok"], 1 / size), "failed": binned(curves["failed"], 1 / size)}
        ),
        Panel("time to redirect", {"p50": binned(curves["p50_ms"]), "p99": binned(curves["p99_ms"])}, " ms"),
        Panel("messages in the queue", {"waiting": [(at, queue) for at, queue, _ in waiting]}),
        Panel("bytes in the spools", {"waiting": [(at, spool) for at, _, spool in waiting]}),
        Panel("how far the counts are behind", {"age": [(at, age) for at, age in curves["age"]]}, " s"),
    ]
    return plot(panels, first, until, strike["harm_seconds"])
