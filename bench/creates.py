"""How many links a second can be made, each durable in PostgreSQL before it is answered?

64 callers at once make a link each, again and again; one core for the service, PostgreSQL (fsync on) beside the load.
Every request asks for another address, so that afterwards the table says whether one was lost or made twice.
"""

from pathlib import Path

from bench.harness.closed_loop import Load, write_requests
from bench.harness.results import Goal
from bench.harness.run import Fresh, Run
from bench.harness.system import Service, processor_seconds

TITLE = "Creates, durable, on one core"
WHAT_LIMITS = (
    "the service's core, which its own work for a create fills. The samples of `python -m bench.profile creates` are "
    "spread thin: sending the answer has 16 %, waiting for the network 10 %, everything else less than 5 %."
)

_PREPARED = 60_000  # more than are sent in one round of a usual run


def ask(run: Run) -> None:
    fresh = run.settings(broker=False, counts=False)
    service = run.start(Service("shortener", fresh.settings), what="shortener-service")
    loads: list[Load] = []
    if run.effort.warm_up_seconds:
        loads.append(_made(run, service, run.effort.warm_up_seconds, 0))
    used = processor_seconds(service.pid)
    for number in run.rounds():
        loads.append(_made(run, service, run.effort.seconds, number))
    used = processor_seconds(service.pid) - used
    measured = loads[-run.effort.rounds :]
    run.figure("creates, 64 connections", "1/s", [load.a_second for load in measured], goal=Goal(4_500, 9_000))
    run.figure("time of a create: p99", "ms", [load.p99_ms for load in measured])
    run.figure("the service's own work for a create", "µs", [1e6 * used / sum(load.completed for load in measured)])
    check_links(run, fresh, loads)


def _made(run: Run, service: Service, seconds: float, number: int) -> Load:
    """A load of creates, none of which asks for what another did."""
    prepared = run.so_many(int(_PREPARED * max(1, seconds / 4)))
    path = write_requests(
        Path(service.folder / "creates"), [request(f"{number}-{item}") for item in range(max(1_000, prepared))]
    )
    return run.load(service.urls[0], path, seconds=seconds)


def request(words: str) -> bytes:
    body = f'{{"url":"https://example.com/some/page/{words}?from=newsletter"}}'.encode()
    return (
        b"POST /api/v1/urls HTTP/1.1\r\nHost: s.example\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def check_links(run: Run, fresh: Fresh, loads: list[Load]) -> None:
    """As many links as were answered at least, and as were asked for at most; no address twice."""
    counted = run.postgresql().run_sql("SELECT count(*), count(DISTINCT target) FROM links", database=fresh.database)
    links, targets = map(int, counted.split("|"))
    run.check_answered("creates", loads, links)
    run.check(f"{links:,} links, {targets:,} addresses", holds=links == targets)
