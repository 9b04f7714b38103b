"""The results of a drill as one page of HTML, as JSON, and as the page of docs/ that the last full one is kept in."""

import html
import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from drill.goals import Missed, missed, why
from drill.plots import plot_of
from drill.programme import PROGRAMMES, has_passed

_PAGE, _PLOT = Path("docs/drill.md"), Path("docs/drill.svg")
_PLOTTED = "Redis master, killed"  # in docs/, one example

_ROLE_HEADINGS = [
    "fault", "times", "redirects failed", "longest gap (s)", "p99 before → within (ms)", "cold codes: failed, p99 (ms)",
    "creates: gap (s)",
    "counts fresh after (s)", "lost", "95 % bound", "doubled",
]  # fmt: skip
_MISSED_HEADINGS = ["fault", "times", "at worst", "why"]
_CONTROL_HEADINGS = ["taken away", "what happened", "had to be found", "found"]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9em; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #8886; padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
.bad { color: #d64545; font-weight: 600; } .good { color: #2a9d5c; } .void { opacity: 0.6; }
summary { cursor: pointer; padding: 0.15rem 0; } svg { width: 100%; height: auto; }
"""


def write_report(folder: Path) -> Path:
    """`report.html` and `report.json` in the folder of the results."""
    report = _report(folder)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    path = folder / "report.html"
    path.write_text(_html(report))
    return path


def write_page(folder: Path) -> Path:
    """The tables and one plot, for docs/."""
    report = _report(folder)
    struck = [strike for result in _legs(report) for strike in result["strikes"]]
    example = next((strike for strike in struck if strike["fault"] == _PLOTTED), struck[0])
    _PLOT.write_text(plot_of(example) + "\n")
    tables = [
        f"{_summary(report)}\n",
        _markdown(_ROLE_HEADINGS, _role_rows(report)),
        "## What was taken away, to see that it is noticed\n",
        _markdown(_CONTROL_HEADINGS, _control_rows(report)),
        "## One of them\n",
        f"![{example['fault']}: redirects, their time, what waits, and how far the counts are behind]({_PLOT.name})\n",
        "## Goals that were missed\n",
        _markdown(_MISSED_HEADINGS, _missed_rows(report)),
    ]
    target = "drill" if report["programme"] == "full" else f"drill-{report['programme']}"
    command = f"make {target} ARGS='--seed {report['seed']}'; python -m drill page --seed {report['seed']}"
    _PAGE.write_text(f"# The last drill\n\nWritten by `{command}`, from its results.\n\n" + "\n".join(tables))
    return _PAGE


def _report(folder: Path) -> dict[str, Any]:
    name, _, seed = folder.name.rpartition("-")
    steps = PROGRAMMES[name](int(seed))
    files = [folder / f"{step.name}.json" for step in steps]
    results = [json.loads(file.read_text()) for file in files if file.exists()]
    return {
        "programme": name,
        "seed": int(seed),
        "steps": len(steps),
        "done": len(results),
        "machine": _machine(),
        "versions": {**_versions(), "this": ", ".join(sorted({result["commit"] for result in results}))},
        "results": results,
    }


def _machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": str(os.cpu_count()),
        "processor": model[1] if model else platform.machine(),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
    }


def _versions() -> dict[str, str]:
    commands = {
        "PostgreSQL": ["psql", "--version"],
        "Redis": ["redis-server", "--version"],
        "etcd": ["etcd", "--version"],
        "nginx": ["/usr/sbin/nginx", "-v"],
        "RabbitMQ": ["dpkg-query", "--show", "--showformat", "${Version}", "rabbitmq-server"],
    }
    return {"Python": platform.python_version(), **{name: _version(command) for name, command in commands.items()}}


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "?"
    said = (done.stdout + done.stderr).strip().partition("\n")[0]
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else said


def _legs(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [result for result in report["results"] if not result["expected"]]


def _controls(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [result for result in report["results"] if result["expected"]]


def _summary(report: Mapping[str, Any]) -> str:
    legs, controls = _legs(report), _controls(report)
    asked = sum(leg["asked"].get(stream, 0) for leg in legs for stream in ("one-shot", "hot", "beat", "cold"))
    void = sum(result["is_void"] for result in report["results"])
    busy = sum(leg["busy"] for leg in legs) / max(1, len(legs))
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    fast = [leg["fast_share"] for leg in legs if leg.get("fast_share") is not None]
    lost = {name: sum(leg["found"].get(name, 0) for leg in legs) for name in ("lost", "duplicated", "lost create")}
    return (
        f"{report['done']} of {report['steps']} steps of the {report['programme']} programme, seed {report['seed']}: "
        f"{sum(len(leg['strikes']) for leg in legs)} faults under {asked:,} redirects. "
        f"Lost {lost['lost']}, doubled {lost['duplicated']}, acknowledged creates lost {lost['lost create']}; "
        f"{sum(map(has_passed, legs))} of {len(legs)} legs and {sum(map(has_passed, controls))} of {len(controls)} "
        f"controls as they should be. "
        f"Of redirects of links in memory at least {100 * min(fast, default=0):.1f} % took the fast way in each leg. "
        f"In {void} steps the senders were late themselves (50 ms or more at the 99th percentile, with the machine "
        f"{100 * busy:.0f} % busy on average): their times are left out, what they lost or doubled would count.\n\n"
        f"Machine: {machine}. Versions: {versions}."
    )


def _by_fault(report: Mapping[str, Any]) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    for result in _legs(report):
        for strike in result["strikes"]:
            found[strike["fault"]].append((result, strike))
    return dict(sorted(found.items()))


def _role_rows(report: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for fault, struck in _by_fault(report).items():
        times = [strike["figures"] for result, strike in struck if not result["is_void"]]
        before, within = (_middle(f[name]["p99"] for f in times) for name in ("redirect_ms_before", "redirect_ms"))
        lost, doubled = _of_legs(struck, "lost"), _of_legs(struck, "duplicated")
        yield (
            fault,
            str(len(struck)),
            _sum_of_failures(strike["figures"]["redirects"] for _, strike in struck),
            _spread(figures["redirect_gap_seconds"] for figures in times),
            f"{before} → {within}",
            _cold(times),
            _spread(figures["create_gap_seconds"] for figures in times),
            _spread(figures["fresh_after_seconds"] for figures in times),
            f"{lost}/{len(struck)}",
            f"≤ {min(1, 3 / len(struck)):.0%}" if not lost else "–",
            str(doubled),
        )


def _cold(times: Sequence[Mapping[str, Any]]) -> str:
    """Links that are in no process's memory: how many failed, and the time of all answers at its worst."""
    p99 = [figures["cold_ms"]["p99"] for figures in times if figures["cold_ms"]["p99"] is not None]
    return f"{_sum_of_failures(figures['cold'] for figures in times)}, {max(p99):.0f}" if p99 else "–"


def _of_legs(struck: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], checker: str) -> int:
    """After how many faults something was lost or doubled. What cannot be told apart within a leg counts for each."""
    return sum(bool(strike[checker] or _is_untold(result, checker)) for result, strike in struck)


def _is_untold(result: Mapping[str, Any], checker: str) -> bool:
    return bool(result["found"].get(checker)) and not any(strike[checker] for strike in result["strikes"])


def _sum_of_failures(answers: Iterable[Mapping[str, int]]) -> str:
    total: dict[str, int] = defaultdict(int)
    for answer in answers:
        for how, count in answer.items():
            total[how] += count
    asked = total.pop("asked", 0)
    failures = ", ".join(f"{count} {how}" for how, count in sorted(total.items()))
    return f"{sum(total.values())} of {asked:,}" + (f" ({failures})" if failures else "")


def _spread(values: Iterable[float]) -> str:
    known = sorted(values)
    return f"{known[0]:.1f} / {median(known):.1f} / {known[-1]:.1f}" if known else "–"


def _middle(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}" if known else "–"


def _control_rows(report: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for result in _controls(report):
        found = ", ".join(f"{count} {checker}" for checker, count in result["found"].items())
        yield result["control"], result["words"].partition(": ")[2], result["expected"], found or "NOTHING"


def _missed_rows(report: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for fault, struck in _by_fault(report).items():
        timed = [strike for result, strike in struck if not result["is_void"]]
        by_goal: dict[str, list[Missed]] = defaultdict(list)
        for strike in timed:
            for one in missed(strike):
                by_goal[one.what].append(one)
        for goal, all_missed in by_goal.items():
            worst = max(all_missed, key=lambda one: one.times).words
            yield fault, f"{len(all_missed)} of {len(timed)}", worst, why(fault, goal)


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    return f"<table>{cells(headings, 'th')}{''.join(cells(row, 'td') for row in rows)}</table>"


def _html(report: Mapping[str, Any]) -> str:
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Drill</title>",
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style><h1>Drill</h1>",
        "".join(f"<p>{html.escape(words)}</p>" for words in _summary(report).split("\n\n")),
        "<h2>Faults</h2><p>Three numbers are the least, the median and the most. What is lost or doubled counts faults "
        "after which anything was.</p>",
        _table(_ROLE_HEADINGS, _role_rows(report)),
        "<h2>Negative controls</h2>",
        _table(_CONTROL_HEADINGS, _control_rows(report)),
        "<h2>Goals that were missed</h2>",
        _table(_MISSED_HEADINGS, _missed_rows(report)),
        "<h2>Every fault</h2>",
    ]
    for result in report["results"]:
        parts.append(_step(result))
    return "".join(parts) + "</html>"


def _step(result: Mapping[str, Any]) -> str:
    is_good = has_passed(result)
    words = f"{result['step']}: {result['words']}"
    void = ", times void" if result["is_void"] else ""
    told = (
        f"senders {result['lag_ms']} ms late at p99{void}; machine {100 * result['busy']:.0f} % busy; all had arrived "
        f"{result['drained_seconds']:.1f} s after the load"
    )
    violations = "".join(
        f"<li>{html.escape(v['checker'])}: {html.escape(v['what'])}</li>" for v in result["violations"][:8]
    )
    falls = "".join(
        f"<li>{html.escape(f['code'])} fell by {f['depth']} for {f['seconds']:.1f} s</li>" for f in result["falls"][:8]
    )
    return (
        f"<h3 class='{'good' if is_good else 'bad'}'>{html.escape(words)}</h3><p>{told}</p>"
        + (f"<ul>{violations}</ul>" if violations else "")
        + (f"<p>Counts that fell and healed:</p><ul>{falls}</ul>" if falls else "")
        + "".join(map(_strike, result["strikes"]))
    )


def _strike(strike: Mapping[str, Any]) -> str:
    f = strike["figures"]
    said = {
        "redirects failed": _sum_of_failures([f["redirects"]]),
        "cold ones failed": f"{_sum_of_failures([f['cold']])}, p99 {f['cold_ms']['p99']} ms",
        "creates": f"longest gap {f['create_gap_seconds']:.2f} s",
        "time to redirect": f"{f['redirect_ms']} ms, before {f['redirect_ms_before']} ms",
        "counts": f"{f['count_stale_seconds']:.1f} s behind at most, fresh after {f['fresh_after_seconds']:.1f} s",
        "waiting at most": f"{f['queue_peak']} messages, {f['spool_peak_bytes']:.0f} bytes in spools",
        "whole again": f"after {strike['whole_seconds']:.1f} s",
    }
    words = "; ".join(f"{name}: {what}" for name, what in said.items())
    misses = "".join(f"<li class='bad'>{html.escape(one.words)}</li>" for one in missed(strike))
    title = html.escape(f"{strike['fault']} ({strike['whom']})")
    return f"<details><summary>{title}</summary><p>{html.escape(words)}</p><ul>{misses}</ul>{plot_of(strike)}</details>"
