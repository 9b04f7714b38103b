"""The services with one safety taken away: `python -m drill.unsafe WHICH shortener|analytics|run`.

Only the drill starts them, to see that its checkers notice. Nothing in the product can be switched to any of this.
"""

import contextlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from aiormq.channel import Channel
from sqlalchemy import select

from urlshortener import cli
from urlshortener.events import amqp_publisher, amqp_source
from urlshortener.events.epoch import Epoch
from urlshortener.links import sql_store
from urlshortener.links.schema import idempotency_keys, links
from urlshortener.settings import Settings
from urlshortener.stats import redis
from urlshortener.stats.redis import RedisStats


def no_spool() -> None:
    """Events in memory only: the folder does not outlive its process."""
    shutil.rmtree(Settings.read(os.environ).spool_dir, ignore_errors=True)


def no_confirms() -> None:
    """What is sent is taken for kept."""

    async def send(self: Any, connection: Any, batch: Any, window: Any) -> None:
        window.confirmed(batch)
        self._spool.done(batch)
        with contextlib.suppress(Exception):
            await connection.channel.basic_publish(
                batch.body if batch.count == 1 else b"[%b]" % batch.body,
                exchange=self._topology.exchange,
                routing_key=self._topology.routing_key,
                properties=amqp_publisher._properties(batch),
                mandatory=True,
            )

    _replace(amqp_publisher.AmqpPublisher, "_send", lambda _: send)


def no_mandatory() -> None:
    """The broker may confirm what it has no queue for."""

    def without(publish: Any) -> Any:
        async def basic_publish(*arguments: Any, **named: Any) -> Any:
            return await publish(*arguments, **{**named, "mandatory": False})

        return basic_publish

    _replace(Channel, "basic_publish", without)


def early_acknowledgement() -> None:
    """What was delivered is acknowledged before it is counted."""

    def acknowledging(read: Any) -> Any:
        def read_and_acknowledge(*arguments: Any) -> Any:
            delivery = read(*arguments)
            if delivery is not None:
                delivery.acknowledge()
            return delivery

        return read_and_acknowledge

    _replace(amqp_source._Session, "read", acknowledging)


def no_dedup() -> None:
    """Every delivery counts, however often an event is delivered. Under another name, so that nobody else gets it."""
    looking = "local known = { known_numbers(blocks),"
    assert looking in redis.LIBRARY, "counting/batch.lua looks otherwise now"
    library = redis.LIBRARY.replace(looking, "local known = { {},")
    version = f"{redis._VERSION}unsafe"
    _set(redis, "LIBRARY", library.replace(f"_{redis._VERSION}", f"_{version}"))
    _set(redis, "_VERSION", version)


def no_wait_and_no_grace() -> None:
    """Counted is acknowledged: no replica is waited for, and nothing is kept for a Redis that forgets."""
    _replace(RedisStats, "_replicas_wanted", lambda _: lambda *_: 0)
    _set(RedisStats, "grace_seconds", 0.0)


def do_nothing() -> None:
    """A create that is tried again finds its own row and reports it, as after ON CONFLICT DO NOTHING: it only reads."""

    def reading_first(add_many: Any) -> Any:
        async def add(self: Any, drafts: Sequence[Any]) -> list[Any]:
            keys = [draft.key for draft in drafts if draft.key is not None]
            there = select(*sql_store._COLUMNS, idempotency_keys.c.key).join_from(
                idempotency_keys, links, links.c.id == idempotency_keys.c.link_id
            )
            statement = there.where(idempotency_keys.c.key.in_(keys))
            rows = await self._database.read(lambda connection: sql_store._all(connection, statement))
            found = {row.key: sql_store._link(row[:-1]) for row in rows}
            new = await add_many(self, [draft for draft in drafts if draft.key not in found])
            following = iter(new)
            return [found[draft.key] if draft.key in found else next(following) for draft in drafts]

        return add

    _replace(sql_store.SqlLinkStore, "add_many", reading_first)


def dies_before_it_answers() -> None:
    """No safety less: a shortener that is killed just when it has written what it was about to answer."""
    frames = itertools.count(1)

    def killing(append: Any) -> Any:
        def append_and_die(*arguments: Any) -> None:
            append(*arguments)
            if next(frames) == 100:
                os.kill(os.getpid(), signal.SIGKILL)

        return append_and_die

    _replace(Epoch, "append", killing)


def _replace(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    _set(owner, name, change(getattr(owner, name)))


def _set(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: the control would take nothing away"
    setattr(owner, name, value)


UNSAFE = {
    change.__name__: change
    for change in (
        no_spool,
        no_confirms,
        no_mandatory,
        early_acknowledgement,
        no_dedup,
        no_wait_and_no_grace,
        do_nothing,
        dies_before_it_answers,
    )
}

if __name__ == "__main__":
    UNSAFE[sys.argv[1]]()
    cli.main(sys.argv[2:])
