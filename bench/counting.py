"""How many events a second does one analytics process count exactly, with one Redis; and do two slow each other down?

The queue is filled before a process starts: 10,000 codes, 10,000 visitors a day, an id for every request. The time
runs from the first that is counted, by two processes from when both are there, to the last. Two share the core that one
has for itself, so they ought to count as much together; they are measured by turns, for a Redis that rewrites its file
or a busy machine makes each of them slower by a quarter now and then. Afterwards the counts of all codes are added up.
"""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.harness import cores
from bench.harness.counts import counted_by_now, publish, seconds_until_counted, total
from bench.harness.results import IDLE_MIB, Goal
from bench.harness.run import Run
from bench.harness.system import Service, broker_of, processor_seconds, start

TITLE = "Events counted exactly, one analytics process, one Redis"
WHAT_LIMITS = (
    "Redis and RabbitMQ share a core, and it is full; most of that is Redis' work, nearly all of it within the "
    "function that counts."
)

_EVENTS = 300_000


@dataclass(frozen=True, slots=True)
class Counted:
    """How it went; work is in µs for an event, of all processes together."""

    a_second: float
    own_work: float
    work_of_redis: float
    starting_mib: float


def ask(run: Run) -> None:
    alone: list[Counted] = []
    both: list[Counted] = []
    for counted in run.by_turns(alone, both):
        counted.append(_count(run, processes=1 if counted is alone else 2))
    run.figure("events counted", "1/s", [one.a_second for one in alone], goal=Goal(50_000, 100_000))
    run.figure("the process' own work for an event", "µs", [one.own_work for one in alone])
    run.figure("memory, as it starts", "MiB", [one.starting_mib for one in alone], goal=IDLE_MIB, scales=False)
    less = Goal(20, 10, less_is_better=True)
    run.figure("Redis' work for an event", "µs", [one.work_of_redis for one in alone], goal=less)
    no_slower = Goal(0.9, 1.0)
    for name, unit, field, goal in (
        ("events counted, two processes that share the queue and the core", "1/s", "a_second", no_slower),
        ("the two processes' own work for an event", "µs", "own_work", None),
        ("Redis' work for an event, two processes", "µs", "work_of_redis", None),
    ):
        beside = [getattr(one, field) for one in alone]
        found = [getattr(one, field) for one in both]
        run.figure(name, unit, found, beside=beside, beside_name="one process", goal=goal)


def _count(run: Run, processes: int) -> Counted:
    events = run.so_many(_EVENTS)
    fresh = run.settings()
    run.redis().ask("FLUSHALL")  # of the turns before: rewriting its file would take longer each time
    run.say(f"publishes {events:,} events")
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder), broker_of(run.rabbitmq(), fresh.vhost), events)
    with ExitStack() as stack:
        services = [stack.enter_context(Service("analytics", fresh.settings)) for _ in range(processes)]
        for service in services:
            start(service)
        run.ran("analytics-service" if processes == 1 else f"{processes} of analytics-service", cores.SERVICE)
        starting_mib = services[0].memory_bytes / 2**20
        pids = [service.pid for service in services]
        redis_pid = int(run.redis().ask("INFO", "server")["process_id"])
        before, began = counted_by_now(*services), time.monotonic()
        used, used_by_redis = sum(map(processor_seconds, pids)), processor_seconds(redis_pid)
        seconds_until_counted(*services, expected=events, within_seconds=120)
        seconds, per_event = time.monotonic() - began, 1e6 / max(1, events - before)
        own_work = per_event * (sum(map(processor_seconds, pids)) - used)
        work_of_redis = per_event * (processor_seconds(redis_pid) - used_by_redis)
        found = total(services[0].urls[0])
        run.check(f"{events:,} events, {found:,} counted", holds=found == events)
    return Counted((events - before) / seconds, own_work, work_of_redis, starting_mib)
