"""How many links a second can be made in lists of a thousand, each durable in PostgreSQL before it is answered?

Eight callers at once send a list each, again and again; one core for the service.
"""

import msgspec

from bench.harness.closed_loop import Load, write_requests
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.system import Service, processor_seconds

TITLE = "Bulk creates, a thousand links a request, on one core"
WHAT_LIMITS = (
    "the service's core, which its own work for a link fills: the body read and answered, the address checked, the row "
    "handed to the driver, the link remembered."
)

_LINKS = 1_000
_LISTS = 60  # a second of a round: more than are sent
_CALLERS = 8


def ask(run: Run) -> None:
    fresh = run.settings(broker=False, counts=False)
    service = run.start(Service("shortener", fresh.settings), what="shortener-service")
    loads = [_made(run, service, 0)]
    used = processor_seconds(service.pid)
    measured = [_made(run, service, number) for number in run.rounds()]
    used = processor_seconds(service.pid) - used
    run.figure("bulk creates", "links/s", [_LINKS * load.a_second for load in measured], goal=Goal(20_000, 50_000))
    run.figure("a request of 1,000 links: p99", "ms", [load.p99_ms for load in measured])
    made = max(1, sum(load.completed for load in measured))
    run.figure("the service's own work for a link", "µs", [1e6 * used / made / _LINKS])
    loads += measured
    counted = run.postgresql().run_sql("SELECT count(*), count(DISTINCT target) FROM links", database=fresh.database)
    links, targets = map(int, counted.split("|"))
    run.check(f"{links:,} links, {targets:,} addresses", holds=links == targets and links % _LINKS == 0)
    run.check_answered("lists", loads, links // _LINKS)


def _made(run: Run, service: Service, number: int) -> Load:
    lists = int(_LISTS * run.effort.seconds)
    requests = [request(f"{number}-{item}") for item in range(lists)]
    path = write_requests(service.folder / "lists", requests)
    return run.load(service.urls[0], path, _CALLERS)


def request(words: str) -> bytes:
    items = [{"url": f"https://example.com/some/page/{words}-{item}?from=newsletter"} for item in range(_LINKS)]
    body = msgspec.json.encode({"items": items})
    return (
        b"POST /api/v1/urls/bulk HTTP/1.1\r\nHost: s.example\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
