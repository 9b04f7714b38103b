"""What can happen to a cluster. Who plays a role is found out at the moment when it is struck."""

import contextlib
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drill.cluster import QUEUE, Cluster
from drill.servers import LEASE_OF_THE_PRIMARY, NODES, Member, Postgresql, Rabbitmq, Service, wait_for
from tests.backends.keeper import descendants

AWAY_SECONDS = 30.0
Pick = Callable[[Cluster, random.Random], Member]
Strike = Callable[[Cluster, random.Random], str]


@dataclass(frozen=True)
class Fault:
    """`strike` returns when the harm itself is over, with whom it met; recovery is the cluster's own."""

    role: str  # for the report's table
    how: str
    strike: Strike
    seconds: float = 20.0  # with recovery, about: for so long there are links that only one visitor follows
    strict: bool = False  # only where SPOOL_MODE is strict
    witnessed: bool = True  # whether the drill's own queue may listen

    @property
    def name(self) -> str:
        return f"{self.role}, {self.how}"


def _one_of(members: Callable[[Cluster], Sequence[Member]]) -> Pick:
    return lambda cluster, chance: chance.choice(members(cluster))


def _others(members: Callable[[Cluster], Sequence[Member]], one: Callable[[Cluster], Member]) -> Pick:
    def pick(cluster: Cluster, chance: random.Random) -> Member:
        leader = one(cluster)
        return chance.choice([member for member in members(cluster) if member is not leader])

    return pick


ROLES: dict[str, Pick] = {
    "PostgreSQL primary": lambda cluster, _: cluster.primary(),
    "PostgreSQL replica": _others(lambda c: c.postgresql, lambda c: c.primary()),
    "RabbitMQ leader": lambda cluster, _: cluster.queue_leader(),
    "RabbitMQ follower": _others(lambda c: c.rabbitmq, lambda c: c.queue_leader()),
    "Redis master": lambda cluster, _: cluster.redis_master(),
    "Redis replica": _others(lambda c: c.redis, lambda c: c.redis_master()),
    "Sentinel": _one_of(lambda c: c.sentinels),
    "etcd leader": lambda cluster, _: cluster.etcd_leader(),
    "shortener": _one_of(lambda c: c.shorteners),
    "analytics": _one_of(lambda c: c.analytics),
    "nginx": _one_of(lambda c: c.proxies),
}


def killed(role: str) -> Fault:
    """SIGKILL. Started again by whoever watches over it, as the manifests say."""

    def strike(cluster: Cluster, chance: random.Random) -> str:
        member = ROLES[role](cluster, chance)
        member.kill()
        return str(member)

    return Fault(role, "killed", strike)


def killed_and_back_at_once(role: str) -> Fault:
    """A Redis that is back, as what it was, before anybody took its place."""

    def strike(cluster: Cluster, chance: random.Random) -> str:
        member = ROLES[role](cluster, chance)
        usual, member.restart_seconds = member.restart_seconds, 0.0
        member.kill()
        wait_for(lambda: member.is_running, f"{member} is back", 5, every_seconds=0.02)
        member.restart_seconds = usual
        return str(member)

    return Fault(role, "killed, back at once", strike)


def hung(role: str, seconds: float) -> Fault:
    """SIGSTOP: the kernel still takes connections for it, and nobody answers."""

    def strike(cluster: Cluster, chance: random.Random) -> str:
        member = ROLES[role](cluster, chance)
        _hang([member], seconds)
        return str(member)

    return Fault(role, f"hung {seconds:g} s", strike, seconds + 10)


def _hang(members: Sequence[Member], seconds: float) -> None:
    with paused(members):
        time.sleep(seconds)


@contextlib.contextmanager
def paused(members: Sequence[Member]) -> Iterator[None]:
    for member in members:
        member.pause()
    try:
        yield
    finally:
        for member in members:
            member.resume()


@contextlib.contextmanager
def held_down(members: Sequence[Member]) -> Iterator[None]:
    """Killed all at once, and away until this is left."""
    for member in members:
        member.is_held_down = True
    try:
        for member in members:
            member.kill()
        yield
    finally:
        for member in members:
            member.is_held_down = False


def _node_killed(cluster: Cluster, chance: random.Random) -> str:
    node = chance.choice(NODES)
    for member in cluster.node(node):
        member.kill()
    return node


def _node_hung(seconds: float) -> Fault:
    def strike(cluster: Cluster, chance: random.Random) -> str:
        node = chance.choice(NODES)
        _hang(cluster.node(node), seconds)
        return node

    return Fault("node", f"hung {seconds:g} s", strike, seconds + 30)


def _node_away(cluster: Cluster, chance: random.Random) -> str:
    """The primary's own: nobody gives its lease back."""
    node = cluster.primary().address
    with held_down(cluster.node(node)):
        time.sleep(AWAY_SECONDS)
    return node


def _node_lost(cluster: Cluster, chance: random.Random) -> str:
    """Its disk goes too; of the disk only the spool matters here, the stores have theirs elsewhere."""
    node = chance.choice(NODES)
    shortener = next(service for service in cluster.shorteners if service.address == node)
    with held_down(cluster.node(node)):
        shutil.rmtree(shortener.spool)
        time.sleep(3)
    return node


def _all_away(what: str, members: Callable[[Cluster], Sequence[Member]]) -> Fault:
    def strike(cluster: Cluster, chance: random.Random) -> str:
        with held_down(members(cluster)):
            time.sleep(AWAY_SECONDS)
        return f"all {what}"

    return Fault(f"all {what}", f"away {AWAY_SECONDS:g} s", strike, AWAY_SECONDS + 30)


def _spool_disk_full(cluster: Cluster, chance: random.Random) -> str:
    """No file of one shortener may grow: its writes fail as on a full disk, its log's as well."""
    shortener = chance.choice(cluster.shorteners)
    limits = [(pid, resource.prlimit(pid, resource.RLIMIT_FSIZE)) for pid in pids_of(shortener)]
    for pid, (_, hard) in limits:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    time.sleep(5)
    for pid, usual in limits:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)
    return str(shortener)


def pids_of(member: Member) -> list[int]:
    assert member._keeper is not None
    return descendants(member._keeper.pid)


@contextlib.contextmanager
def memory_alarm(member: Rabbitmq) -> Iterator[None]:
    """It says that it has no memory left: nobody may publish, on any node."""
    usual = member.evaluate("vm_memory_monitor:get_vm_memory_high_watermark()")
    member.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1000000})")
    try:
        yield
    finally:
        member.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({usual})")


def _memory_alarm(cluster: Cluster, chance: random.Random) -> str:
    member = chance.choice(cluster.rabbitmq)
    with memory_alarm(member):
        time.sleep(8)
    return str(member)


def _shortener_killed_while_broker_blocks(cluster: Cluster, chance: random.Random) -> str:
    """What it has answered is only in its spool then."""
    shortener: Service = chance.choice(cluster.shorteners)
    with memory_alarm(cluster.rabbitmq[0]):
        time.sleep(2)
        shortener.kill()
        time.sleep(1)
    return str(shortener)


def _rabbitmq_hung_and_killed(cluster: Cluster, chance: random.Random) -> str:
    """What was sent to it, and not confirmed, is gone."""
    for member in cluster.rabbitmq:
        member.pause()
    time.sleep(1.5)
    for member in cluster.rabbitmq:
        member.kill()
    return "all RabbitMQ"


def _queue_unbound(cluster: Cluster, chance: random.Random) -> str:
    """Somebody unbinds the queue, and nobody tells the services."""
    member = cluster.rabbitmq[0]
    member.evaluate(
        'rabbit_binding:remove({binding, rabbit_misc:r(<<"/">>, exchange, <<"events">>), <<"access.event">>,'
        f' rabbit_misc:r(<<"/">>, queue, <<"{QUEUE}">>), []}}, <<"drill">>)'
    )
    time.sleep(2)
    member.evaluate(
        'rabbit_binding:add({binding, rabbit_misc:r(<<"/">>, exchange, <<"events">>), <<"access.event">>,'
        f' rabbit_misc:r(<<"/">>, queue, <<"{QUEUE}">>), []}}, <<"drill">>)'
    )
    return f"{QUEUE} unbound 2 s"


def _analytics_killed_while_redis_hangs(cluster: Cluster, chance: random.Random) -> str:
    """What was delivered to them cannot be counted yet."""
    with paused([cluster.redis_master()]):
        time.sleep(0.7)  # shorter than it takes to be replaced
        for service in cluster.analytics:
            service.kill()
    return "all analytics"


def _analytics_killed(cluster: Cluster, chance: random.Random) -> str:
    """What they counted and have not acknowledged yet is delivered again."""
    for service in cluster.analytics:
        service.kill()
    return "all analytics"


def _redis_forgets_its_last_second(cluster: Cluster, chance: random.Random) -> str:
    """A master that is killed before its file has what it answered, and back at once, takes all replicas back too."""
    master = cluster.redis_master()
    master.ask("CONFIG", "SET", "appendonly", "no")
    time.sleep(1)
    usual, master.restart_seconds = master.restart_seconds, 0.0
    master.kill()
    wait_for(lambda: master.is_running, f"{master} is back", 5, every_seconds=0.02)
    master.restart_seconds = usual
    return str(master)


def _redis_out_of_memory(cluster: Cluster, chance: random.Random) -> str:
    """Every node is given less memory than it needs empty."""
    usual = {member: member.ask("CONFIG", "GET", "maxmemory")["maxmemory"] for member in cluster.redis}
    for member in cluster.redis:
        member.ask("CONFIG", "SET", "maxmemory", "1mb")
    time.sleep(3)
    for member in cluster.redis:
        member.ask("CONFIG", "SET", "maxmemory", usual[member])
    return "all Redis"


@contextlib.contextmanager
def _nothing_sent(primary: Postgresql) -> Iterator[None]:
    """Its senders hang. Did the replicas, what was sent would wait for them in the kernel, and none of it be lost."""
    senders = [pid for pid in pids_of(primary) if b"walsender" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(senders) >= len(NODES) - 1, f"{primary} sends to {len(senders)} replicas"
    for pid in senders:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in senders:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _replaced(cluster: Cluster, primary: Postgresql) -> None:
    """It is killed, and stays away until another is primary. Its lease ends at once: 20 s more would tell nothing."""
    with held_down([primary]):
        cluster.etcd[0].delete(LEASE_OF_THE_PRIMARY)
        wait_for(lambda: any(member.is_primary for member in cluster.postgresql), "another primary", 60)


def _primary_killed_while_nothing_is_sent(cluster: Cluster, chance: random.Random) -> str:
    """Creates come that no replica hears of; then the primary dies, and a replica takes its place."""
    primary = cluster.primary()
    with _nothing_sent(primary):
        time.sleep(2)
        _replaced(cluster, primary)
    return str(primary)


def _reply_of_a_commit_cut(cluster: Cluster, chance: random.Random) -> str:
    """As before, and the commits that wait for a replica are told that they are over: nobody hears how they ended."""
    primary = cluster.primary()
    with _nothing_sent(primary):
        for _ in range(3):
            time.sleep(0.7)
            _end_waiting_commits(primary)
        time.sleep(0.7)
        _replaced(cluster, primary)
    return str(primary)


def _end_waiting_commits(primary: Postgresql) -> None:
    primary.run_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")


def _dies_before_it_answers(cluster: Cluster, chance: random.Random) -> str:
    """A shortener that is killed, again and again, just when it has written what it was about to answer."""
    shortener = chance.choice(cluster.shorteners)
    cluster.change_services([shortener], ("drill.unsafe", "dies_before_it_answers"))
    time.sleep(6)
    cluster.change_services([shortener])
    return str(shortener)


def _rolling(members: Callable[[Cluster], Sequence[Member]], what: str) -> Fault:
    def strike(cluster: Cluster, chance: random.Random) -> str:
        for member in members(cluster):
            member.is_held_down = True
            member.stop()
            member.is_held_down = False
            member.restart_seconds, usual = 0.0, member.restart_seconds
            wait_for(lambda: member.is_running, f"{member} is back", 10)  # noqa: B023
            member.restart_seconds = usual
            cluster.wait_until_whole()
        return what

    return Fault(what, "restarted one by one", strike, 90)


KILLS = [
    *(killed(role) for role in ROLES),
    killed_and_back_at_once("Redis master"),
    killed_and_back_at_once("Redis replica"),
    Fault("node", "killed", _node_killed),
]
HANGS = [fault for seconds in (2.0, 15.0) for fault in (*(hung(role, seconds) for role in ROLES), _node_hung(seconds))]
SERVICES_RESTARTED = _rolling(lambda cluster: [*cluster.shorteners, *cluster.analytics], "both services")
LONG = [
    Fault("node of the primary", f"away {AWAY_SECONDS:g} s", _node_away, AWAY_SECONDS + 30),
    _all_away("Redis", lambda cluster: cluster.redis),
    _all_away("RabbitMQ", lambda cluster: cluster.rabbitmq),
    _all_away("PostgreSQL", lambda cluster: cluster.postgresql),
    SERVICES_RESTARTED,
    _rolling(
        lambda c: [
            *c.etcd,
            *c.postgresql,
            *c.rabbitmq,
            *c.redis,
            *c.sentinels,
            *c.shorteners,
            *c.analytics,
            *c.proxies,
        ],
        "everything",
    ),
]
# What the negative controls do, with every safety in its place (controls.py).
# A message that any queue takes is not returned to its publisher: so no other queue may be bound then.
UNBOUND = Fault("queue", "unbound for a moment", _queue_unbound, witnessed=False)
BLOCKED_AND_KILLED = Fault("shortener", "killed while RabbitMQ blocks", _shortener_killed_while_broker_blocks)
HUNG_AND_KILLED = Fault("all RabbitMQ", "hung and killed", _rabbitmq_hung_and_killed)
COUNTING_KILLED = Fault("all analytics", "killed", _analytics_killed)
WAITING_KILLED = Fault("all analytics", "killed while Redis hangs", _analytics_killed_while_redis_hangs)
FORGETFUL = Fault("Redis master", "killed before its file is written, back at once", _redis_forgets_its_last_second)
OUT_OF_MEMORY = Fault("all Redis", "out of memory", _redis_out_of_memory)
UNSENT = Fault("PostgreSQL primary", "killed while it sends nothing", _primary_killed_while_nothing_is_sent)
CUT = Fault("PostgreSQL primary", "killed after replies of commits were cut", _reply_of_a_commit_cut)
DIES_BEFORE_ANSWER = Fault("shortener", "killed between writing and answering", _dies_before_it_answers)
OTHERS = [
    Fault("spool disk", "full 5 s", _spool_disk_full),
    Fault("RabbitMQ", "memory alarm 8 s", _memory_alarm),
    BLOCKED_AND_KILLED,
    HUNG_AND_KILLED,
    COUNTING_KILLED,
    WAITING_KILLED,
    FORGETFUL,
    OUT_OF_MEMORY,
    UNSENT,
    CUT,
    DIES_BEFORE_ANSWER,
]
# Not witnessed: of what was sent when the node died and never confirmed, one queue may have got it and the other not.
# Nobody was answered for it, and nobody is left who would send it again.
LOST = Fault("node", "lost with its spool", _node_lost, strict=True, witnessed=False)
ALL = [*KILLS, *HANGS, *OTHERS, *LONG, UNBOUND, LOST]
