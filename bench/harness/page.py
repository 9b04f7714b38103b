"""Results as text for a terminal, and (performance_page.py) as docs/performance.md."""

from pathlib import Path

from bench.harness.results import Figure, Results

RESULTS = Path(__file__).parent.parent / "results.json"


def keep(results: Results) -> None:
    """Add them to those that were kept: each replaces the answer to the same question, if the machine is the same."""
    if RESULTS.exists():
        before = Results.from_json(RESULTS.read_bytes())
        asked = {answer.question for answer in results.answers}
        if _same_machine(before, results):
            results.answers = [a for a in before.answers if a.question not in asked] + results.answers
    RESULTS.write_bytes(results.as_json())


def _same_machine(one: Results, other: Results) -> bool:
    ignored = {"load before"}
    return {k: v for k, v in one.machine.items() if k not in ignored} == {
        k: v for k, v in other.machine.items() if k not in ignored
    }


def as_text(results: Results) -> str:
    lines = [f"{name}: {value}" for name, value in results.machine.items()]
    for answer in results.answers:
        lines += ["", f"{answer.title}   ({answer.command}, {answer.seconds:.0f} s)"]
        lines += [f"  {line}" for line in answer.processes]
        lines += [f"  {_figure(figure, results.nginx_scale)}" for figure in answer.figures]
        lines += [f"  checked: {words}" for words in answer.checks]
        lines += [f"  FAILED: {answer.failure}"] if answer.failure else []
    return "\n".join(lines)


def _figure(figure: Figure, scale: float) -> str:
    spread = f"{min(figure.values):,.4g} to {max(figure.values):,.4g}" if len(figure.values) > 1 else "once"
    text = f"{figure.name}: {figure.median:,.4g} {figure.unit} ({spread})"
    if figure.ratio is not None:
        text += f" = {figure.ratio:.2f} × {figure.beside_name}"
    return text + verdict(figure, scale)


def verdict(figure: Figure, scale: float) -> str:
    """Whether the goal is met."""
    goal = figure.goal
    if goal is None:
        return ""
    value = figure.median if figure.ratio is None else figure.ratio
    if figure.ratio is None and figure.scales:
        value = value * scale if goal.less_is_better else value / scale
    met = "met" if goal.is_met_by(value) else "MISSED"
    return f"; goal {'≤' if goal.less_is_better else '≥'} {goal.at_least:,g}: {met}"
