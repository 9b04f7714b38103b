"""How many events a second does one analytics process count exactly, with one Redis?

The queue is filled before the process starts: 10,000 codes, 10,000 visitors a day, an id for every request. The time
runs from the first that is counted to the last. Afterwards the counts of all codes are added up.
"""

import tempfile
import time
from pathlib import Path

from bench.harness import cores
from bench.harness.counts import counted_by_now, publish, seconds_until_counted, total
from bench.harness.results import Goal
from bench.harness.run import Run
from bench.harness.system import Service, broker_of, processor_seconds, start

TITLE = "Events counted exactly, one analytics process, one Redis"

_EVENTS = 200_000


def ask(run: Run) -> None:
    events = run.so_many(_EVENTS)
    rates, own_work, work_of_redis = [], [], []
    redis_pid = int(run.redis().ask("INFO", "server")["process_id"])
    for _ in run.rounds():
        fresh = run.settings()
        run.say(f"publishes {events:,} events")
        with tempfile.TemporaryDirectory() as folder:
            publish(Path(folder), broker_of(run.rabbitmq(), fresh.vhost), events)
        with Service("analytics", fresh.settings) as analytics:
            start(analytics)
            run.ran("analytics-service", cores.SERVICE)
            before, began = counted_by_now(analytics), time.monotonic()
            used, used_by_redis = processor_seconds(analytics.pid), processor_seconds(redis_pid)
            seconds_until_counted(analytics, events, within_seconds=120)
            rates.append((events - before) / (time.monotonic() - began))
            per_event = 1e6 / max(1, events - before)
            own_work.append(per_event * (processor_seconds(analytics.pid) - used))
            work_of_redis.append(per_event * (processor_seconds(redis_pid) - used_by_redis))
            found = total(analytics.urls[0])
            run.check(f"{events:,} events, {found:,} counted", holds=found == events)
    run.figure("events counted", "1/s", rates, goal=Goal(50_000, 100_000))
    run.figure("the process' own work for an event", "µs", own_work)
    run.figure("Redis' work for an event", "µs", work_of_redis, goal=Goal(20, 10, less_is_better=True))
