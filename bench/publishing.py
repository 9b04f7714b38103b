"""The same with all that a shortener-service does: every event is published, and confirmed by RabbitMQ beside it.

A round ends when the last of its events is confirmed, so that publishing which falls behind lowers the figure. After
each the queue is read: one event for each redirect.
"""

import time

from bench.harness import shortener, traffic
from bench.harness.beside import Beside
from bench.harness.closed_loop import Load
from bench.harness.nginx import RedirectingNginx
from bench.harness.results import Goal
from bench.harness.run import Fresh, Run
from bench.harness.system import Service, broker_of, events_in_queue
from tests.backends.waiting import wait_until

TITLE = "Redirects, answered, spooled, published and confirmed, on one core"
WHAT_LIMITS = (
    "what limits a redirect; and each event is read from the spool again, put into a message and sent, for which there "
    "is no core but the one that answers."
)

_LATE_SECONDS = 60.0


def ask(run: Run) -> None:
    fresh = run.settings(counts=False)
    service = shortener.started(run, fresh, traffic.CODES)
    nginx = run.start(RedirectingNginx(traffic.targets(traffic.CODES)))
    beside = Beside(run, service.urls[0], nginx.url)
    beside.warm_up(run.requests())
    _confirmed(service)
    taken = _taken_from_queue(run, fresh, service, 0)
    for connections in (64, 1000):
        rates, nginxs = [], []
        for _ in run.rounds():
            ours, theirs = beside.both(run.requests(), connections)
            rates.append(_with_publishing(ours, _confirmed(service)))
            nginxs.append(theirs.a_second)
            taken += _taken_from_queue(run, fresh, service, taken)
        run.figure(
            f"redirects, confirmed, {connections:,} connections", "1/s", rates, beside=nginxs, goal=Goal(0.5, 0.75)
        )
    run.check_answered("shortener", beside.ours, service.redirected)
    run.check_answered("nginx", beside.theirs, nginx.answered)
    run.check(f"{service.redirected:,} redirects, {taken:,} events in the queue", holds=service.redirected == taken)


def _confirmed(service: Service) -> float:
    """Wait until every event is confirmed; return the seconds that this took."""
    began = time.monotonic()
    wait_until(
        lambda: service.is_all_confirmed,
        "every event is confirmed",
        within_seconds=_LATE_SECONDS,
        every_seconds=0.05,
    )
    return time.monotonic() - began


def _with_publishing(load: Load, seconds_late: float) -> float:
    return load.completed / (load.seconds + seconds_late)


def _taken_from_queue(run: Run, fresh: Fresh, service: Service, before: int) -> int:
    return events_in_queue(broker_of(run.rabbitmq(), fresh.vhost), service.redirected - before)
