"""How many redirects a second does one core answer, each with its event in the spool before the answer leaves?

Publishing comes later here: the broker is away while it is measured (publishing.py has it with). Afterwards the service
is killed, and its spool read: one event for each redirect, no number twice.
"""

from bench.harness import shortener, traffic
from bench.harness.beside import Beside
from bench.harness.nginx import RedirectingNginx
from bench.harness.results import Goal
from bench.harness.run import Run

TITLE = "Redirects, answered and spooled, on one core"
WHAT_LIMITS = (
    "with 64 connections half of the time is the kernel's, as much as nginx takes of it: one `read` and one `write` "
    "for a redirect, and one to the spool for each turn (`perf record` at full load). Of Python's half about a third "
    "reads heads, a sixth writes events and spools them, an eighth hashes visitors, an eighth looks up links, which "
    "is waiting for memory (each step left out by turns). The rest receives and sends. Nearly all of it is one call "
    "of C for each step of a request: there is little bytecode left to save."
)

_CONNECTIONS = (1, 8, 64, 256, 1000)


def ask(run: Run) -> None:
    service = shortener.started(run, run.settings(broker=False, counts=False), traffic.CODES)
    nginx = run.start(RedirectingNginx(traffic.targets(traffic.CODES)))
    requests = run.requests()
    beside = Beside(run, service.urls[0], nginx.url)
    beside.warm_up(requests)
    for connections in (64, 1000):
        beside.figures(requests, connections, Goal(0.75, 0.95))
    over_connections(run, beside)
    shortener.check_spool(run, service, beside.ours)
    run.check_answered("nginx", beside.theirs, nginx.answered)


def over_connections(run: Run, beside: Beside) -> None:
    """Throughput and p99, measured once at each number of connections."""
    pairs = {connections: beside.both(run.requests(), connections) for connections in run.some(_CONNECTIONS)}
    who = ("url-shortener", "nginx")
    run.curve(
        "Redirects a second over connections",
        "connections",
        "1/s",
        {name: [(n, pair[place].a_second) for n, pair in pairs.items()] for place, name in enumerate(who)},
    )
    run.curve(
        "p99 at full load over connections",
        "connections",
        "ms",
        {name: [(n, pair[place].p99_ms) for n, pair in pairs.items()] for place, name in enumerate(who)},
    )
