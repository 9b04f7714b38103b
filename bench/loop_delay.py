"""How late is the event loop with a million links in memory, while links are made, looked up and pushed out?

The memory of links is full: whatever is made, or found that was not there, pushes another out. 5,000 visitors a second
follow links, of which one in eight is not in memory at first; 8 callers make links as fast as they can. The service
itself looks ten times a second how late its loop is; its histogram's bounds make the figure the least of 1, 2.5, 5, 10,
20, 50 … ms that so many stayed below.
"""

from concurrent.futures import ThreadPoolExecutor

from bench import creates
from bench.harness import cores, histogram, links, open_loop, shortener
from bench.harness.closed_loop import Load, write_requests
from bench.harness.open_loop import Waits
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.system import Service

TITLE = "The event loop's delay, with a million links in memory"

_IN_MEMORY = 1_000_000
_LINKS = 1_200_000
_MEMORY_MIB = 240  # holds a few more than a million of them
_RATE = 5_000
_CALLERS = 8
_SECONDS = 120  # 1,200 looks: one of them may be later than p99.9
_PREPARED = 100_000  # creates; they are sent round and round


def ask(run: Run) -> None:
    fresh = run.settings(broker=False, counts=False)
    count, in_memory = run.so_many(_LINKS), run.so_many(_IN_MEMORY)
    run.say(f"makes {count:,} links")
    links.fill_postgresql(run.postgresql(), fresh.database, count)
    full = {"CACHE_WARM_LINKS": str(count), "CACHE_MAX_BYTES": str(run.so_many(_MEMORY_MIB * 2**20))}
    service = shortener.warmed(run, fresh, in_memory, more=full)
    run.ran(f"the open-loop tool, {_RATE:,} a second", cores.LOAD)
    seconds = max(1, _SECONDS * run.effort.share)
    before = service.metrics()
    waits, made = _both(run, service, count, seconds)
    after = service.metrics()
    delays = histogram.seen(before, after, "event_loop_delay_seconds")
    for share, goal in ((0.5, None), (0.99, None), (0.999, Goal(20, less_is_better=True))):
        name = f"{100 * share:.3g} % of the loop's delays: at most"
        run.figure(name, "ms", [1000 * histogram.at_most(delays, share)], goal=goal, scales=False)
    run.figure("p99.9 of the visitors' waits", "ms", [waits.p999_ms])
    run.figure("creates meanwhile", "1/s", [made.a_second])
    held = int(after["link_cache_links"])
    run.check(f"{held:,} links in memory at the end", holds=held >= in_memory)
    counted = int(run.postgresql().run_sql("SELECT count(*) FROM links", database=fresh.database))
    run.check_answered("creates", [made], counted - count)
    run.check(f"{waits.redirected:,} visitors sent on, {waits.errors} not", holds=not waits.errors)
    shortener.check_spool(run, service, [], waits.redirected)


def _both(run: Run, service: Service, count: int, seconds: float) -> tuple[Waits, Load]:
    """Visitors, and beside them those who make links."""
    requests = [creates.request(f"late-{number}") for number in range(run.so_many(_PREPARED))]
    path = write_requests(service.folder / "creates", requests)
    visits = run.requests(count)
    with ThreadPoolExecutor(1) as beside:
        making = beside.submit(run.load, service.urls[0], path, _CALLERS, seconds)
        waits = open_loop.run(service.urls[0], visits, a_second=_RATE, seconds=seconds, spins=False)
        return waits, making.result()
