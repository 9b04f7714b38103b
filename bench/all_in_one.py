"""The same in one process with SQLite, on one core: redirects a second, every one counted exactly.

A round ends when the last of its events is counted, so that counting which falls behind lowers the figure.
"""

from bench.harness import cores, links, traffic
from bench.harness.counts import check_counts, seconds_until_counted
from bench.harness.nginx import RedirectingNginx
from bench.harness.results import IDLE_MIB, Goal
from bench.harness.run import Run
from bench.harness.system import Service
from tests.backends.waiting import wait_until
from tests.journeys.systems import migrate

TITLE = "All in one (SQLite), redirects counted, on one core"
WHAT_LIMITS = (
    "counting is done by the core that answers. In `python -m bench.profile all_in_one` nearly a third of the samples "
    "are in SQLite's transactions of counts; py-spy counts threads that wait for their turn too."
)


def ask(run: Run) -> None:
    service = started(run)
    memory = service.memory_bytes / 2**20
    nginx = run.start(RedirectingNginx(traffic.targets(traffic.CODES)))
    rates, nginxs, loads, before = [], [], [], 0
    for _ in run.rounds():
        loads.append(run.load(service.urls[0], run.requests()))
        seconds = seconds_until_counted(service, expected=loads[-1].completed + before, within_seconds=120)
        rates.append(loads[-1].completed / (loads[-1].seconds + seconds))
        before = service.redirected
        nginxs.append(run.load(nginx.url, run.requests()).a_second)
    run.figure("redirects, all counted", "1/s", rates, goal=Goal(15_000, 30_000))
    run.figure("nginx in the same run", "1/s", nginxs)
    run.figure("memory, idle, with 10,000 links", "MiB", [memory], goal=IDLE_MIB, scales=False)
    check_counts(run, service, loads)


def started(run: Run) -> Service:
    """With 10,000 links, all of them in its memory."""
    service = Service("run", {"SPOOL_MAX_BYTES": "64Gi"})
    folder = service.folder / "data"
    migrate({"DATA_DIR": str(folder)})
    links.fill_sqlite(folder / "links.db", traffic.CODES)
    run.start(service, cores.SERVICE, what="urlshortener run")
    wait_until(lambda: service.metrics()["link_cache_links"] >= traffic.CODES, "the links are in memory", 60)
    return service
