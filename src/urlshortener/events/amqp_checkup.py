"""What is found on each host of the broker, for a person who wants to know."""

import asyncio
import secrets
from dataclasses import dataclass, replace

from urlshortener.events.amqp_connection import Broker, Connection, Dialler, Lost, TopologyDiffers, in_our_words
from urlshortener.events.amqp_topology import Topology

_LIMIT_SECONDS = 6.0
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class BrokerHost:
    """One RabbitMQ node, as it answered."""

    host: str
    away: str = ""  # why it did not answer
    differs: str = ""  # what it has that is not as ours
    is_blocked: bool = False
    messages: int = 0  # ready in the queue: neither counted nor at a consumer
    consumers: int = 0
    dead_letters: int = 0


async def look_at(broker: Broker, topology: Topology) -> list[BrokerHost]:
    """All hosts at once, within a few seconds, whatever they do."""
    alone = [replace(broker, hosts=(host,)) for host in broker.hosts]
    return list(await asyncio.gather(*(_look_at(one, topology) for one in alone)))


async def _is_blocked(connection: Connection) -> bool:
    """It says so only to who publishes. So this does: to a queue that nobody has, where a message just goes."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            with in_our_words():
                await connection.channel.basic_publish(b"", routing_key=f"nobody.{secrets.token_hex(8)}")
    except TimeoutError:
        return True
    return await connection.is_blocked()


async def _look_at(broker: Broker, topology: Topology) -> BrokerHost:
    host, port = broker.hosts[0]
    name = f"{host}:{port}"
    try:
        async with asyncio.timeout(_LIMIT_SECONDS), Dialler(broker, topology, "doctor").connection() as connection:
            with in_our_words():
                queue = await connection.channel.queue_declare(topology.queue, passive=True, timeout=_ANSWER_SECONDS)
                dead = await connection.channel.queue_declare(
                    topology.dead_queue, passive=True, timeout=_ANSWER_SECONDS
                )
            return BrokerHost(
                name,
                is_blocked=await _is_blocked(connection),
                messages=queue.message_count or 0,
                consumers=queue.consumer_count or 0,
                dead_letters=dead.message_count or 0,
            )
    except TopologyDiffers as error:
        what = error.difference
        return BrokerHost(name, differs=f"{what.get('what')} of {what.get('of')}: {what.get('ours_and_theirs')}")
    except Lost as error:
        return BrokerHost(name, away=str(error).rstrip("."))
    except TimeoutError:
        return BrokerHost(name, away="it did not answer in time")
