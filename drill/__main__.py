"""`python -m drill WHAT`, as README.md beside it tells."""

import argparse
import contextlib
import shutil
import signal
import sys
import time
from pathlib import Path

from drill.cluster import Cluster
from drill.programme import PROGRAMMES, Drill
from drill.report import write_page, write_report
from drill.servers import PROXIES

FOLDER = Path("drill-results")
_TO_PLAY_WITH = """
create   curl http://{proxy}:8080/api/v1/urls -H 'Content-Type: application/json' \\
              -d '{{"url":"https://example.com/","code":"hello"}}'
follow   curl -i http://{proxy}:8080/hello
count    curl http://{proxy}:8081/api/v1/analytics/hello
look     (set -a; . {settings}; {bin}/urlshortener doctor hello)
kill     kill -9 and the numbers that are last in a line above; what ends is started again

Ctrl-C ends all of it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m drill", description="Three nodes on loopback, and their bad days.")
    parser.add_argument("what", choices=["cluster", *PROGRAMMES, "report", "page"])
    parser.add_argument("--minutes", type=float, default=60, help="how long `cluster` stays up at most")
    parser.add_argument("--seed", type=int, default=4, help="what decides who is struck and in which order")
    parser.add_argument("--anew", action="store_true", help="forget the results of a drill that was not finished")
    parser.add_argument("--only", default="", metavar="WORDS", help="the steps whose faults have these words in them")
    parser.add_argument("--rate", type=float, default=500, help="redirects a second")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended on the way out
    match arguments.what:
        case "cluster":
            return _cluster(arguments.minutes)
        case "report" | "page" as what:
            folders = [folder for name in PROGRAMMES if (folder := FOLDER / f"{name}-{arguments.seed}").is_dir()]
            return _write(folders[0], page=what == "page") if folders else 1
        case name:
            return _drill(name, arguments.seed, arguments.rate, arguments.only, anew=arguments.anew)


def _cluster(minutes: float) -> int:
    with Cluster() as cluster:
        cluster.start()
        print(f"create and follow  http://{PROXIES[0]}:8080  http://{PROXIES[1]}:8080")
        print(f"counts             http://{PROXIES[0]}:8081  http://{PROXIES[1]}:8081")
        for member in cluster.members:
            pids = " ".join(map(str, member.pids))
            print(f"{member.role:<12} {member.address}:{member.port:<6} {member.folder}  {pids}")
        settings = cluster.shorteners[0].folder / "settings"
        settings.touch(mode=0o600)
        settings.write_text("".join(f"{name}='{value}'\n" for name, value in cluster.settings.items()))
        print(_TO_PLAY_WITH.format(proxy=PROXIES[0], settings=settings, bin=Path(sys.executable).parent), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(minutes * 60)
    return 0


def _drill(name: str, seed: int, rate: float, only: str, *, anew: bool) -> int:
    folder = FOLDER / f"{name}-{seed}"
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    steps = PROGRAMMES[name](seed)
    if not any(only in step.words for step in steps):
        print(f"no step of {name!r} has the words {only!r}")
        return 2
    drill = Drill(folder, steps, seed, _Progress(), rate)
    try:
        has_passed = drill.run(only)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on from here. What is done: {folder}")
        return 130
    _write(folder, page=False)
    return 0 if has_passed else 1


def _write(folder: Path, *, page: bool) -> int:
    print(f"report: {write_page(folder) if page else write_report(folder)}")
    return 0


class _Progress:
    """One line at a terminal, written over and over; elsewhere a line now and then. Steps have lines of their own."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, words: str) -> None:
        now = time.monotonic()
        line = f"{(now - self._began) / 60:6.1f} min  {words}"
        if words.startswith("step"):
            print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)
        elif sys.stdout.isatty():
            print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif now - self._said > 10:
            self._said = now
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
