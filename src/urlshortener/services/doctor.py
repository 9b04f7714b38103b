"""`urlshortener doctor`: looks at everything that the services need, and says in words what is wrong and what to do.

It asks each server directly, each with a limit, all at once; and changes nothing but what every service declares on
the broker at its start. With a code it also says why that code's count is what it is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from urlshortener.errors import Unavailable, WrongSetting
from urlshortener.events import spool_checkup
from urlshortener.links.code import could_be_a_link
from urlshortener.links.link import Link
from urlshortener.services import backends
from urlshortener.settings import Settings
from urlshortener.stats.store import LinkStats

if TYPE_CHECKING:
    from urlshortener.events.amqp_checkup import BrokerHost
    from urlshortener.links.postgresql_checkup import DatabaseHost
    from urlshortener.stats.redis_checkup import CountsHost

_LIMIT_SECONDS = 15.0
_MANY_MESSAGES = 10_000
_FULL = 0.9


class State(Enum):
    OK = "ok"
    NOTE = "note"  # worth knowing; nothing is lost by it
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    words: str
    to_do: str = ""

    def __str__(self) -> str:
        line = f"{self.state.value:5}  {self.what}: {self.words}"
        return f"{line}\n       -> {self.to_do}" if self.to_do else line


def ok(what: str, words: str) -> Finding:
    return Finding(what, State.OK, words)


def note(what: str, words: str, to_do: str = "") -> Finding:
    return Finding(what, State.NOTE, words, to_do)


def wrong(what: str, words: str, to_do: str) -> Finding:
    return Finding(what, State.WRONG, words, to_do)


async def examined(settings: Settings, code: str | None = None) -> tuple[str, int]:
    """All findings as text, and the exit code: 1 if anything is wrong."""
    logging.disable(logging.CRITICAL)  # what it would say is said below, in words
    looks: list[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]]] = [
        ("links", _links),
        ("events", _events),
        ("spool", _spool),
        ("counts", _counts),
        ("reconciliation", _missing),
    ]
    found = await asyncio.gather(*(_within_limit(what, look(settings)) for what, look in looks))
    findings = [finding for of_one in found for finding in of_one]
    if code is not None:
        findings += await _within_limit(f"count of {code!r}", _why(settings, code, findings))
    is_wrong = any(finding.state is State.WRONG for finding in findings)
    return "\n".join(map(str, findings)), int(is_wrong)


async def _within_limit(what: str, look: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await look
    except WrongSetting as error:
        return [wrong(what, str(error), "Mend the setting.")]
    except Unavailable as error:
        return [wrong(what, error.detail, "See what is said of the servers above.")]
    except (OSError, TimeoutError) as error:
        return [wrong(what, f"could not be looked at ({type(error).__name__})", "Try again; look at the machine.")]


# ---- links


async def _links(settings: Settings) -> list[Finding]:
    if settings.links_url.scheme == "sqlite":
        return [_file("links", settings.links_url.path)]
    hosts, of_replicas, expected = await backends.look_at_links(settings)
    primaries = [host for host in hosts if not host.away and not host.is_replica]
    findings = []
    for host in hosts:
        what = f"PostgreSQL {host.host}"
        if host.away:
            state = note if primaries else wrong
            findings.append(state(what, f"does not answer: {host.away}", "Start it, or mend LINKS_URL."))
        elif host.is_replica:
            findings.append(ok(what, "a replica"))
        else:
            findings += _primary(what, host, expected)
    if not primaries:
        words = "none of the hosts of LINKS_URL is a primary: links redirect from memory, none can be made"
        findings.append(wrong("PostgreSQL", words, "Start the primary, or wait for the failover to end."))
    return findings + [_replica(host) for host in of_replicas]


def _primary(what: str, host: "DatabaseHost", expected: str) -> list[Finding]:
    findings = [ok(what, f"the primary, {host.replicas} replicas connected, schema {host.schema or 'missing'}")]
    if host.schema is None:
        findings.append(wrong(what, "the tables are missing", "Run `urlshortener migrate`."))
    elif host.schema < expected:
        words = f"the schema is at {host.schema}, this version wants {expected}"
        findings.append(wrong(what, words, "Run `urlshortener migrate`."))
    if host.is_synchronous and not host.replicas:
        words = "it commits only with a standby, and none is connected: every create waits and then fails"
        findings.append(wrong(what, words, "Start a standby; a diverged one has to be made anew."))
    if host.connections >= _FULL * host.most_connections:
        words = f"{host.connections} of {host.most_connections} connections are taken"
        findings.append(wrong(what, words, "Close what is idle, raise max_connections, or use the pooler."))
    return findings


def _replica(host: "DatabaseHost") -> Finding:
    what = f"PostgreSQL {host.host} (reads)"
    if host.away:
        return note(what, f"does not answer: {host.away}", "Reads go to the primary meanwhile. Start it.")
    if host.is_replica and not host.is_receiving:
        return wrong(what, "a replica that receives nothing: what it has is old", "Look at its log; make it anew.")
    return ok(what, "a replica that receives" if host.is_replica else "the primary itself")


# ---- events


async def _events(settings: Settings) -> list[Finding]:
    if settings.events_url.scheme == "in-process":
        return [ok("events", "are read from the spool by the process that wrote them")]
    hosts = await backends.look_at_broker(settings)
    there = [host for host in hosts if not host.away and not host.differs]
    findings = []
    for host in hosts:
        what = f"RabbitMQ {host.host}"
        if host.differs:
            to_do = "Drain and delete what the broker has, so that it is declared anew, or choose another name."
            findings.append(wrong(what, f"its topology differs from ours: {host.differs}", to_do))
        elif host.away:
            state = note if there else wrong
            findings.append(state(what, f"does not answer: {host.away}", "Start it, or mend EVENTS_URL."))
        elif host.is_blocked:
            words = "takes nothing: an alarm for memory or disk is on; events wait in the spools"
            findings.append(wrong(what, words, "Give it memory or disk; `rabbitmq-diagnostics alarms` says which."))
        else:
            findings.append(ok(what, "answers, and has the exchange and the queues"))
    return findings + [finding for host in there[:1] for finding in _queue(settings.events_queue, host)]


def _queue(name: str, host: "BrokerHost") -> list[Finding]:
    what = f"queue {name}"
    words = f"{host.messages} messages wait, {host.consumers} consumers"
    if not host.consumers:
        to_do = "Start analytics-service; if it runs, its log says why it does not consume (`counting_paused`: Redis)."
        findings = [wrong(what, f"{words}: nothing is counted", to_do)]
    elif host.messages > _MANY_MESSAGES:
        findings = [wrong(what, f"{words}: counts are late", "Wait if it shrinks; else add analytics replicas.")]
    else:
        findings = [ok(what, words)]
    if host.dead_letters:
        findings.append(_dead_letters(f"queue {name}.dead", host.dead_letters))
    return findings


def _dead_letters(what: str, how_many: int) -> Finding:
    words = f"{how_many} dead letters: messages that could not be read, and are not counted"
    return wrong(what, words, "`urlshortener dead-letters show` says why; `replay` sends them again.")


# ---- the spool of this machine


async def _spool(settings: Settings) -> list[Finding]:
    spool = await asyncio.to_thread(spool_checkup.look_at, settings.spool_dir)
    what = f"spool {settings.spool_dir}"
    if not spool.is_there:
        return [note(what, "is not on this machine", "Ask a shortener's own machine for it.")]
    words = f"{spool.bytes} bytes in {spool.epochs} epochs, the oldest {spool.oldest_seconds:.0f} s old"
    findings = [ok(what, words)]
    if not spool.can_be_written:
        findings.append(wrong(what, "cannot be written by this user", "Give the services' user the folder."))
    if spool.bytes > _FULL * settings.spool_max_bytes or spool.free_bytes < settings.spool_max_bytes // 100:
        words = f"is nearly full ({spool.free_bytes} bytes free): further events will be lost"
        findings.append(wrong(what, words, "Bring the broker back, or give the volume and SPOOL_MAX_BYTES room."))
    if spool.unadopted:
        words = f"{spool.unadopted} epochs of processes that are gone wait to be sent"
        findings.append(wrong(what, words, "Start a shortener with this SPOOL_DIR; it takes them over."))
    if spool.set_aside:
        words = f"{spool.set_aside} damaged or week-old parts lie in quarantine"
        findings.append(
            wrong(what, words, "Look at SPOOL_DIR/quarantine; docs/operations.md, Counts that are missing.")
        )
    if spool.dead_letters:
        findings.append(_dead_letters(what, spool.dead_letters))
    return findings


# ---- counts


async def _counts(settings: Settings) -> list[Finding]:
    if settings.stats_url.scheme == "sqlite":
        return [_file("counts", settings.stats_url.path)]
    hosts, sentinels = await backends.look_at_counts(settings)
    findings = []
    masters_told = {sentinel.master for sentinel in sentinels if sentinel.master}
    for sentinel in sentinels:
        what = f"Sentinel {sentinel.host}"
        if sentinel.away:
            findings.append(
                note(what, f"does not answer: {sentinel.away}", "Start it: a majority must agree to fail over.")
            )
        elif sentinel.master is None:
            findings.append(wrong(what, "does not know the master of STATS_URL", "Mend the name in STATS_URL."))
        else:
            findings.append(ok(what, f"says that {sentinel.master[0]}:{sentinel.master[1]} is the master"))
    if len(masters_told) > 1:
        findings.append(
            wrong("Sentinels", "do not agree on the master", "Wait for the failover; else restart the odd one.")
        )
    if sentinels and 2 * sum(not sentinel.away for sentinel in sentinels) <= len(sentinels):
        findings.append(wrong("Sentinels", "no majority answers: nobody would replace a master", "Start them."))
    masters = [host for host in hosts if host.role == "master"]
    for host in hosts:
        findings += _redis(host, has_master=bool(masters), behind_sentinel=bool(sentinels))
    if not masters:
        words = "no master answers: nothing is counted, and the queue holds the events"
        findings.append(wrong("Redis", words, "Start it; behind Sentinel, wait for the failover."))
    return findings


def _redis(host: "CountsHost", *, has_master: bool, behind_sentinel: bool) -> list[Finding]:
    what = f"Redis {host.host}"
    if host.away:
        state = note if has_master else wrong
        return [state(what, f"does not answer: {host.away}", "Start it, or mend STATS_URL.")]
    if host.role != "master":
        if host.link_to_master != "up":
            return [
                wrong(what, "a replica that has lost its master", "Look at its log and at its address for the master.")
            ]
        return [ok(what, "a replica that follows")]
    findings = [ok(what, f"the master, {host.replicas} replicas follow, {host.used_bytes} bytes")]
    if host.policy not in ("noeviction", ""):
        words = f"may throw counts away: its maxmemory-policy is {host.policy}"
        findings.append(wrong(what, words, "CONFIG SET maxmemory-policy noeviction, and in its configuration."))
    if host.most_bytes and host.used_bytes > _FULL * host.most_bytes:
        words = f"{host.used_bytes} of {host.most_bytes} bytes are used: at the limit it counts nothing more"
        findings.append(wrong(what, words, "Raise maxmemory."))
    if not host.has_append_only_file:
        words = "keeps no append-only file: killed, it forgets counts that nothing brings back"
        findings.append(wrong(what, words, "CONFIG SET appendonly yes, and in its configuration."))
    if behind_sentinel and not host.replicas:
        words = "no replica follows: batches are acknowledged only once there is one"
        findings.append(wrong(what, words, "Start a replica, or use redis:// for a single Redis."))
    return findings


async def _missing(settings: Settings) -> list[Finding]:
    what = "reconciliation"
    if backends.has_no_counts_yet(settings):
        return []
    stats = backends.open_stats(settings)
    try:
        drifts = await stats.drift()
    finally:
        await stats.close()
    missing = sum(drift.missing for drift in drifts)
    if not missing:
        return [ok(what, "every access that was known a minute ago is counted")]
    words = f"{missing} accesses that were known a minute ago are not counted"
    return [
        wrong(what, words, "`urlshortener reconcile` names shortener and hour; docs/operations.md says what to do.")
    ]


def _file(what: str, path: str) -> Finding:
    file = Path(path)
    if not file.exists():
        return note(what, f"{file} is not there yet", "`urlshortener run` makes it.")
    return ok(what, f"{file}, {file.stat().st_size} bytes")


# ---- why is this count what it is


async def _why(settings: Settings, code: str, findings: Sequence[Finding]) -> list[Finding]:
    what = f"count of {code}"
    if not could_be_a_link(code):
        return [wrong(what, "this can be no code: 1 to 64 letters, digits, - and _", "Look at the code.")]
    counts = await _counts_of(settings, code)
    found = [await _link(settings, what, code, counts)]
    if any(finding.state is State.WRONG for finding in findings):
        found.append(note(what, "what is wrong above may keep accesses from being counted yet"))
    elif counts is None:
        found.append(ok(what, "nothing is wrong, late or missing: nobody has followed it"))
    return found


async def _counts_of(settings: Settings, code: str) -> LinkStats | None:
    if backends.has_no_counts_yet(settings):
        return None
    stats = backends.open_stats(settings)
    try:
        return await stats.of(code)
    finally:
        await stats.close()


async def _link(settings: Settings, what: str, code: str, counts: LinkStats | None) -> Finding:
    so_far = f"{counts.access_count} accesses, the last at {counts.last_accessed_at}" if counts else "it has no access"
    try:
        link = await _found(settings, code)
    except WrongSetting:  # the file of links belongs to the process that runs
        return note(what, f"{so_far}; whether there is such a link, only the running process knows")
    except Unavailable:
        return note(what, f"{so_far}; whether there is such a link cannot be asked now")
    if link is None:
        return wrong(what, f"{so_far}, and there is no such link", "Look at the letters of the code.")
    return _of_link(what, so_far, link)


async def _found(settings: Settings, code: str) -> Link | None:
    if backends.has_no_links_yet(settings):
        return None
    store = backends.open_links(settings)
    try:
        return (await store.find_many([code])).get(code)
    finally:
        await store.close()


def _of_link(what: str, so_far: str, link: Link) -> Finding:
    if link.is_deleted:
        return note(what, f"{so_far}; the link was deleted: it does not redirect any more")
    if not link.enabled:
        return note(what, f"{so_far}; the link is switched off: it does not redirect")
    if link.expires_at is not None and link.expires_at <= datetime.now(UTC):
        return note(what, f"{so_far}; the link ended at {link.expires_at}")
    return ok(what, f"{so_far}; the link is there and redirects. HEAD requests are not counted")
