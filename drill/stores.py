"""What the stores of the cluster hold, read from themselves and not from the services."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import cast

import redis

from drill.cluster import QUEUE, Cluster
from drill.history import KNOWN, Stream
from drill.http_client import ask_all
from drill.load import Plan
from drill.servers import PASSWORD, Redis, wait_for

_BLOCK = 65536  # numbers in one bitmap of stats/counting


def insert_links(cluster: Cluster, plan: Plan) -> None:
    """The links of a plan, past the services. The cold ones are old, so that no start loads them among the newest."""
    for stream in (*KNOWN, Stream.COLD):
        at = "'2020-01-01'::timestamptz" if stream is Stream.COLD else "now()"
        cluster.primary().run_sql(
            f"INSERT INTO links (id, code, target, created_at, updated_at, touched_at)"
            f" SELECT gen_random_uuid(), code, 'https://example.com/' || code, at, at, at"
            f" FROM (SELECT '{plan.name}-{stream}-' || n AS code, {at} AS at"
            f" FROM generate_series(0, {plan.count(stream) - 1}) AS n) AS made",
            "links",
        )
    wait_until_replayed(cluster)


def wait_until_replayed(cluster: Cluster, within_seconds: float = 30) -> None:
    """Until both replicas have what the primary had a moment ago."""
    wrote = cluster.primary().run_sql("SELECT pg_current_wal_lsn()")
    replayed = f"SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{wrote}'"
    wait_for(lambda: cluster.primary().run_sql(replayed) == "2", "both replicas replayed", within_seconds)


async def make_known(cluster: Cluster, plan: Plan) -> None:
    """Have every shortener hold the plan's links in memory. HEAD redirects, and is not counted."""
    heads = [f"HEAD /{code} HTTP/1.1\r\nHost: drill\r\n\r\n".encode() for code in plan.codes(*KNOWN)]
    for shortener in cluster.shorteners:
        answers = await ask_all((shortener.address, shortener.port), heads, is_head=True)
        assert all(answer.status == 307 for answer in answers), f"{shortener} does not know the drill's links"


def links_of(cluster: Cluster, plan: Plan) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, list[str]]]]:
    """node -> code -> target, and node -> idempotency key -> codes; of what the plan's visitors made."""
    links: dict[str, dict[str, str]] = {}
    keys: dict[str, dict[str, list[str]]] = {}
    for member in cluster.postgresql:
        made = f"https://example.com/{plan.name}-create-%"
        rows = member.run_sql(f"SELECT code, target FROM links WHERE target LIKE '{made}'", "links")
        links[member.address] = dict(_pairs(rows))
        rows = member.run_sql(
            "SELECT k.key, l.code FROM idempotency_keys k JOIN links l ON l.id = k.link_id"
            f" WHERE k.key LIKE '{plan.name}-create-%'",
            "links",
        )
        of_node: dict[str, list[str]] = {}
        keys[member.address] = of_node
        for key, code in _pairs(rows):
            of_node.setdefault(key, []).append(code)
    return links, keys


def _pairs(rows: str) -> Iterator[tuple[str, str]]:
    for row in rows.splitlines():
        left, _, right = row.partition("|")
        yield left, right


def redis_digests(cluster: Cluster) -> dict[str, str]:
    """Of each node's Redis, one number for all that it holds, while nobody writes and nothing expires."""
    master = cluster.redis_master()
    master.ask("CLIENT", "PAUSE", "15000", "WRITE")
    try:
        written = _offset(master)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all(_offset(member) >= written for member in cluster.redis), "replicas have it all", 10)
        return {member.address: member.ask("DEBUG", "DIGEST") for member in cluster.redis}
    finally:
        master.ask("CLIENT", "UNPAUSE")


def _offset(member: Redis) -> int:
    """In the stream of what is replicated."""
    info = member.ask("INFO", "replication")
    return int(info["master_repl_offset" if info["role"] == "master" else "slave_repl_offset"])


def codes_counted(cluster: Cluster) -> int:
    return int(cluster.redis_master().ask("ZCARD", "us:top"))


def numbers_counted(member: Redis, epochs: Sequence[str]) -> dict[str, set[int]]:
    """epoch -> the numbers that are in the counts, as stats/counting keeps them."""
    with redis.Redis(member.address, 6379, password=PASSWORD, socket_timeout=10) as client:
        return {epoch: set(_numbers_of(client, epoch)) for epoch in epochs}


def _numbers_of(client: "redis.Redis", epoch: str) -> Iterator[int]:
    for block, state in client.hgetall(f"us:e:{epoch}").items():
        first = int(block) * _BLOCK
        if state == b"full":
            yield from range(first, first + _BLOCK)
            continue
        bitmap = cast("bytes", client.get(f"us:b:{epoch}:{int(block)}") or b"")
        for place, byte in zip(count(first, 8), bitmap, strict=False):
            yield from (place + bit for bit in range(8) if byte & (0x80 >> bit))


def counts_of(address: str, port: int, codes: Sequence[str]) -> dict[str, int]:
    """As the analytics tell anybody."""
    return asyncio.run(_counts_of(address, port, codes))


async def _counts_of(address: str, port: int, codes: Sequence[str]) -> dict[str, int]:
    asked = [f"GET /api/v1/analytics/{code} HTTP/1.1\r\nHost: drill\r\n\r\n".encode() for code in codes]
    answers = await ask_all((address, port), asked)
    for code, answer in zip(codes, answers, strict=True):
        assert answer.status == 200, f"{code}: {answer.status} {answer.body.decode()}"
    return {code: json.loads(answer.body)["access_count"] for code, answer in zip(codes, answers, strict=True)}


def left_in(cluster: Cluster) -> Mapping[str, float]:
    """What should be empty when all has arrived."""
    return {
        "queue": cluster.messages_in(QUEUE),
        **{f"spool of {member.address}": member.metric("spool_bytes") for member in cluster.shorteners},
    }
