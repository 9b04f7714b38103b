"""A shortener-service that holds so many links in memory, and is watched for what becomes of its events."""

from collections.abc import Mapping, Sequence

from bench.harness import cores, links
from bench.harness.closed_loop import Load
from bench.harness.run import Fresh, Run
from bench.harness.system import Service, events_in_spool
from tests.backends.waiting import wait_until


def started(run: Run, fresh: Fresh, count: int, on: Sequence[int] = (cores.SERVICE,)) -> Service:
    """With the links 1 … count in its database, and all of them in its memory."""
    run.say(f"makes {count:,} links")
    links.fill_postgresql(run.postgresql(), fresh.database, count)
    return warmed(run, fresh, count, on)


def warmed(
    run: Run,
    fresh: Fresh,
    count: int,
    on: Sequence[int] = (cores.SERVICE,),
    *,
    workers: int = 1,
    more: Mapping[str, str] | None = None,
) -> Service:
    """The newest `count` links of its database in its memory, or in that of each of its workers."""
    roomy = {"CACHE_WARM_LINKS": str(count), "CACHE_MAX_BYTES": "4Gi", "SPOOL_MAX_BYTES": "64Gi"}
    service = Service("shortener", {**fresh.settings, **roomy, **(more or {})}, workers)
    run.start(service, *on, what="shortener-service" if workers == 1 else f"shortener-service, {workers} workers")
    run.say(f"waits until {count:,} links are in memory")
    wait_until(
        lambda: service.metrics()["link_cache_links"] >= count * workers, "the links are in memory", within_seconds=300
    )
    return service


def check_spool(run: Run, service: Service, loads: Sequence[Load], visitors: int = 0) -> None:
    """Every redirect has its event on disk once, also after a SIGKILL: those of wrk, and exactly so many more."""
    redirected = service.redirected
    run.check_answered("shortener", loads, redirected - visitors)
    service.kill()
    spooled = events_in_spool(service.spool)
    run.check(f"{redirected:,} redirects, {spooled:,} events in the spool", holds=redirected == spooled)
