"""`python -m bench.profile NAME`: where the hot path's time goes, as py-spy sees it from outside; --help has the names.

Writes a flame graph, profile-NAME.svg, into the current folder, and prints the functions that were found most often at
the top of the stack. The load is that of the question of this name; its figures are not shown, for being watched slows.
"""

import argparse
import collections
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import all_in_one, bulk, creates
from bench.harness import cores, shortener, traffic
from bench.harness.closed_loop import write_requests
from bench.harness.results import Answer
from bench.harness.run import USUAL, Run, Shared
from bench.harness.system import Service

_SECONDS = 8
_SHOWN = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="Where the hot path's time goes.")
    parser.add_argument("what", choices=["redirects", "creates", "bulk", "all_in_one"])
    what = parser.parse_args().what
    shared = Shared(USUAL)
    run = Run(USUAL, Answer(what, "", ""), shared)
    try:
        service, requests, connections = _ready(run, what)
        load = threading.Thread(
            target=lambda: run.load(service.urls[0], requests, connections, seconds=_SECONDS + 4), daemon=True
        )
        load.start()
        time.sleep(2)
        _watch(service.pid, Path(f"profile-{what}.svg"))
        load.join()
    finally:
        run.close()
        shared.close()
    return 0


def _ready(run: Run, what: str) -> tuple[Service, Path, int]:
    if what == "all_in_one":
        return all_in_one.started(run), run.requests(), 64
    fresh = run.settings(broker=False, counts=False)
    if what == "redirects":
        return shortener.started(run, fresh, traffic.CODES), run.requests(), 64
    service = run.start(Service("shortener", fresh.settings), what="shortener-service")
    if what == "creates":
        made = [creates.request(str(number)) for number in range(15_000 * _SECONDS)]
        return service, write_requests(service.folder / "requests", made), 64
    lists = [bulk.request(str(number)) for number in range(50 * _SECONDS)]
    return service, write_requests(service.folder / "requests", lists), 8


def _watch(pid: int, graph: Path) -> None:
    """First as text for the table, then for a flame graph."""
    program = str(Path(sys.executable).with_name("py-spy"))
    with tempfile.NamedTemporaryFile() as raw, cores.on(cores.LOAD):
        for form, seconds, path in (("raw", _SECONDS, raw.name), ("flamegraph", 2, str(graph))):
            how = f"record --pid {pid} --duration {seconds} --rate 200 --format {form} --output {path}".split()
            subprocess.run([program, *how], check=True, stdout=sys.stderr)
        _print(Path(raw.name).read_text())
    print(f"flame graph: {graph}")


def _print(stacks: str) -> None:
    tops: collections.Counter[str] = collections.Counter()
    for line in stacks.splitlines():
        stack, _, often = line.rpartition(" ")
        tops[stack.rpartition(";")[2]] += int(often)
    whole = sum(tops.values())
    for top, count in tops.most_common(_SHOWN):
        print(f"{100 * count / whole:5.1f} %  {top}")


if __name__ == "__main__":
    sys.exit(main())
