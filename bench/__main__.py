"""`python -m bench [QUESTION …]`: ask, print, and keep the answers as JSON. README.md beside it tells more."""

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.harness import cores, machine, page
from bench.harness.results import Answer, Results
from bench.harness.run import SMOKE, THOROUGH, USUAL, Effort, Run, Shared
from tests.backends.postgresql import Postgresql

# In the order in which a reader wants the answers.
QUESTIONS = (
    "redirects",
    "publishing",
    "spooling",
    "links_in_memory",
    "loop_delay",
    "waiting",
    "proxied",
    "workers",
    "tracing",
    "creates",
    "bulk",
    "counting",
    "counts_in_memory",
    "end_to_end",
    "all_in_one",
    "naively",
)
LONG_QUESTIONS = ("size",)  # asked only by their names


def main(arguments: Sequence[str] | None = None) -> int:
    wanted = _parser().parse_args(arguments)
    if not cores.enough():
        print("bench: cores 0 and 1 are needed, one for what is measured and one for the load", file=sys.stderr)
        return 2
    effort = SMOKE if wanted.smoke else THOROUGH if wanted.thorough else USUAL
    results = asked(wanted.questions or QUESTIONS, effort)
    print(page.as_text(results))
    if wanted.keep:
        page.keep(results, (*QUESTIONS, *LONG_QUESTIONS))
    return 1 if any(answer.failure for answer in results.answers) else 0


def asked(questions: Sequence[str], effort: Effort, postgresql: Postgresql | None = None) -> Results:
    """Ask them one after the other; one that fails does not keep the others from being asked."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    results = Results(machine.described(), effort.name, began)
    shared = Shared(effort, postgresql)
    try:
        for number, name in enumerate(questions, 1):
            print(f"bench: {name}, {number} of {len(questions)}", file=sys.stderr, flush=True)
            results.answers.append(_answer(name, effort, shared))
    finally:
        shared.close()
    return results


def _answer(name: str, effort: Effort, shared: Shared) -> Answer:
    question = importlib.import_module(f"bench.{name}")
    arguments = f'"{name} --thorough"' if effort is THOROUGH else name
    answer = Answer(name, question.TITLE, f"make bench ARGS={arguments}", shared.nginx_scale)
    run = Run(effort, answer, shared)
    began = time.monotonic()
    try:
        question.ask(run)
    except Exception as error:
        answer.failure = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    finally:
        run.close()
        answer.seconds = time.monotonic() - began
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast, measured beside nginx.")
    names = (*QUESTIONS, *LONG_QUESTIONS)
    parser.add_argument("questions", nargs="*", choices=[*names, []], metavar="QUESTION", help=", ".join(names))
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works; figures mean nothing")
    parser.add_argument("--thorough", action="store_true", help="longer and more often")
    parser.add_argument("--keep", action="store_true", help="write results.json and docs/performance.md anew")
    return parser


if __name__ == "__main__":
    sys.exit(main())
