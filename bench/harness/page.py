"""Results as text for a terminal, and as docs/performance.md with its plots."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from bench.harness import plot
from bench.harness.results import Answer, Figure, Results

_ROOT = Path(__file__).parent.parent.parent
RESULTS = _ROOT / "bench" / "results.json"
PAGE = _ROOT / "docs" / "performance.md"
PLOTS = _ROOT / "docs" / "performance"

_HEAD = """# How fast it is

Made by `make bench ARGS=--keep` from [bench/results.json](../bench/results.json); each section's command measures it
anew. What is measured has core 0 for itself, the load and the back ends share core 1, unless a section says otherwise.
A ratio is to Debian's nginx (one worker, `map` and `return`, access log on), asked the same in the same run on the same
core. What is counted is checked afterwards: a question that finds anything lost or doubled has no figures.

Goals in absolute numbers are for a machine whose nginx answers 84,000 redirects a second. So they are held against
figures that are scaled by what it answered here in the same run, which stands above each table.
"""


def keep(results: Results, order: Sequence[str]) -> None:
    """Add them to those that were kept, in the order of these questions, and write the page anew."""
    if RESULTS.exists():
        results = together(Results.from_json(RESULTS.read_bytes()), results, order)
    RESULTS.write_bytes(results.as_json())
    write()


def together(before: Results, now: Results, order: Sequence[str]) -> Results:
    """Each answer of now replaces the one to the same question; all of before go if the machine is another, and those
    to questions that nobody asks any more."""
    busy = {"load before"}
    if {**before.machine, **dict.fromkeys(busy)} != {**now.machine, **dict.fromkeys(busy)}:
        return now
    answers = {answer.question: answer for answer in (*before.answers, *now.answers)}
    return Results(now.machine, now.effort, now.began, [answers[name] for name in order if name in answers])


def write() -> None:
    """The page and its plots, from what is kept."""
    results = Results.from_json(RESULTS.read_bytes())
    PLOTS.mkdir(exist_ok=True)
    for old in PLOTS.glob("*.svg"):
        old.unlink()
    for path, text in plots(results).items():
        path.write_text(text)
    PAGE.write_text(as_page(results))


def plots(results: Results) -> dict[Path, str]:
    return {PLOTS / _file(curve.title): plot.svg(curve) for answer in results.answers for curve in answer.curves}


def as_page(results: Results) -> str:
    machine = "\n".join(f"| {name} | {value} |" for name, value in results.machine.items())
    parts = [
        _HEAD,
        f"| the machine, {results.began} | |\n|---|---|\n{machine}\n",
        *(_section(answer) for answer in results.answers),
    ]
    return "\n".join(parts)


def _section(answer: Answer) -> str:
    scale = answer.nginx_scale
    rows = "\n".join(_row(figure, scale) for figure in answer.figures)
    lines = [
        f"## {answer.title}",
        "",
        f"`{answer.command}` · {answer.seconds:.0f} s · nginx {84_000 * scale:,.0f}/s",
        "",
    ]
    if answer.failure:
        return "\n".join([*lines, "It failed, so there are no figures.", ""])
    lines += ["| | median | lowest to highest | ratio | goal | |", "|---|---|---|---|---|---|", rows, ""]
    lines += [*_what_limits(answer), *_what_it_tells(answer)]
    lines += [f"![{curve.title}](performance/{_file(curve.title)})" for curve in answer.curves]
    lines += ["", "Where it ran: " + "; ".join(answer.processes) + ".", ""]
    return "\n".join(lines)


def _what_limits(answer: Answer) -> list[str]:
    """What its question says of that, where a goal, or the better one, was not reached."""
    is_limited = any(
        figure.goal is not None and not figure.goal.is_surpassed_by(_measured_by_goal(figure, answer.nginx_scale))
        for figure in answer.figures
    )
    why = getattr(importlib.import_module(f"bench.{answer.question}"), "WHAT_LIMITS", "")
    return [f"What limits it: {why}", ""] if is_limited and why else []


def _what_it_tells(answer: Answer) -> list[str]:
    """What its question says of how far its figures go, if it has to."""
    told = getattr(importlib.import_module(f"bench.{answer.question}"), "WHAT_IT_TELLS", "")
    return [f"What this tells: {told}", ""] if told else []


def _row(figure: Figure, scale: float) -> str:
    spread = f"{_number(min(figure.values))} to {_number(max(figure.values))}" if len(figure.values) > 1 else "once"
    ratio = f"{figure.ratio:.2f} × {figure.beside_name}" if figure.ratio is not None else ""
    return f"| {figure.name} | {_number(figure.median)} {figure.unit} | {spread} | {ratio} | {_goal(figure, scale)} |"


def _goal(figure: Figure, scale: float) -> str:
    goal = figure.goal
    if goal is None:
        return "|"
    value = _measured_by_goal(figure, scale)
    sign = "≤" if goal.less_is_better else "≥"
    better = "" if goal.better is None else f", better {sign} {_number(goal.better)}"
    return f"{sign} {_number(goal.at_least)}{better} | {_verdict(figure, value)}"


def _measured_by_goal(figure: Figure, scale: float) -> float:
    if figure.ratio is not None:
        return figure.ratio
    if not figure.scales or not scale:
        return figure.median
    return figure.median * scale if figure.goal and figure.goal.less_is_better else figure.median / scale


def _verdict(figure: Figure, value: float) -> str:
    goal = figure.goal
    assert goal is not None
    if goal.better is not None and goal.is_surpassed_by(value):
        return "better"
    if goal.is_met_by(value):
        return "met"
    return f"**missed**: {_number(value)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _file(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".svg"


def as_text(results: Results) -> str:
    lines = [f"{name}: {value}" for name, value in results.machine.items()]
    for answer in results.answers:
        lines += ["", f"{answer.title}   ({answer.command}, {answer.seconds:.0f} s)"]
        lines += [f"  {line}" for line in answer.processes]
        lines += [f"  {_line(figure, answer.nginx_scale)}" for figure in answer.figures]
        lines += [f"  checked: {words}" for words in answer.checks]
        lines += [f"  FAILED: {answer.failure}"] if answer.failure else []
    return "\n".join(lines)


def _line(figure: Figure, scale: float) -> str:
    spread = f"{_number(min(figure.values))} to {_number(max(figure.values))}" if len(figure.values) > 1 else "once"
    text = f"{figure.name}: {_number(figure.median)} {figure.unit} ({spread})"
    if figure.ratio is not None:
        text += f" = {figure.ratio:.2f} × {figure.beside_name}"
    return text if figure.goal is None else f"{text}; goal {_goal(figure, scale).replace(' | ', ': ')}"
