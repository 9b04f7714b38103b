"""Negative controls: with one safety taken away, the same fault must be noticed. One that passes is a blind drill."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from drill import faults
from drill.cluster import Cluster
from drill.faults import Fault
from drill.servers import PROGRAM, Service


@contextlib.contextmanager
def _as_it_is(cluster: Cluster) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _evicting(cluster: Cluster) -> Iterator[None]:
    usual = str(cluster.redis[0].ask("CONFIG", "GET", "maxmemory-policy")["maxmemory-policy"])
    _set_policy(cluster, "allkeys-lru")
    try:
        yield
    finally:
        _set_policy(cluster, usual)


def _set_policy(cluster: Cluster, policy: str) -> None:
    for member in cluster.redis:
        member.ask("CONFIG", "SET", "maxmemory-policy", policy)


@contextlib.contextmanager
def _asynchronous(cluster: Cluster) -> Iterator[None]:
    cluster.replicate_synchronously(False)
    try:
        yield
    finally:
        cluster.replicate_synchronously(True)


@dataclass(frozen=True)
class Control:
    """What is taken away, what happens then, and which checker has to see it."""

    takes_away: str
    fault: Fault
    checker: str
    unsafe: str = ""  # of drill/unsafe.py
    shorteners: bool = False  # whether they run that
    analytics: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    stores: Callable[[Cluster], AbstractContextManager[None]] = _as_it_is

    @property
    def name(self) -> str:
        return f"without {self.takes_away}"

    @contextlib.contextmanager
    def taken_away(self, cluster: Cluster) -> Iterator[None]:
        """Afterwards everything is as it was, services with their next change; only what was lost stays lost, and is of
        no later leg's epochs."""
        shorteners = cluster.shorteners if self.shorteners else []
        analytics = cluster.analytics if self.analytics else []
        services: Sequence[Service] = [*shorteners, *analytics]
        program = ("drill.unsafe", self.unsafe) if self.unsafe else PROGRAM
        cluster.change_services(services, program, self.settings)
        try:
            with self.stores(cluster):
                yield
        finally:
            cluster.outdate([*cluster.shorteners, *analytics])


_NO_REQUEST_IDS: Mapping[str, str] = {"REQUEST_ID_WINDOW": "0s"}

CONTROLS = [
    Control("spool", faults.BLOCKED_AND_KILLED, "lost", "no_spool", shorteners=True),
    Control("confirms", faults.HUNG_AND_KILLED, "lost", "no_confirms", shorteners=True),
    Control("mandatory, and the queue unbound", faults.UNBOUND, "lost", "no_mandatory", shorteners=True),
    Control("late acknowledgement", faults.WAITING_KILLED, "lost", "early_acknowledgement", analytics=True),
    Control(  # the request's id would tell an event that comes again too, where the edge gave one
        "dedup, of events and of requests",
        faults.COUNTING_KILLED,
        "duplicated",
        "no_dedup",
        analytics=True,
        settings=_NO_REQUEST_IDS,
    ),
    Control("WAIT and grace", faults.FORGETFUL, "lost", "no_wait_and_no_grace", analytics=True),
    # Which keys it evicts is chance: counts that are gone always, what tells events apart not.
    Control("noeviction", faults.OUT_OF_MEMORY, "fallen count", stores=_evicting),
    Control("synchronous PostgreSQL", faults.UNSENT, "lost create", stores=_asynchronous),
    Control("an upsert that writes", faults.CUT, "lost create", "do_nothing", shorteners=True),
    Control(
        "the edge's request ids",
        faults.DIES_BEFORE_ANSWER,
        "duplicated",
        analytics=True,
        settings=_NO_REQUEST_IDS,
    ),
]
