"""What stands on the broker between the two services, declared by both ends on every connection.

The arguments are constants on purpose: a queue that exists with other ones is refused by the broker (406), so that a
change of any of them needs a new name for the queue. They hold from RabbitMQ 3.10 to 4.3.
"""

from dataclasses import dataclass
from typing import Any

from aiormq.abc import AbstractChannel

# A queue counts each return of a message, a consumer's crash included, and sets the message aside at the limit; since
# RabbitMQ 4.0 that is 20 unless said otherwise. A good event must never come to it: with one return for each lost
# connection, and pauses between connections that grow to 30 s, a thousand are hours of nothing but failures.
_DELIVERY_LIMIT = 1000
# Dead letters are read by people, message by message, each look a return: the limit must not throw them away.
_DEAD_LETTER_DELIVERY_LIMIT = 1_000_000
# When they are more than anybody will read, the oldest go. To refuse them would let poison block good events.
_MOST_DEAD_LETTER_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Topology:
    """The names on the broker, and how much may wait there."""

    exchange: str = "events"
    queue: str = "access_logs"
    routing_key: str = "access.event"
    # About seven million events. Below the disk alarm of a volume of 8 GiB with room for the log that a quorum queue
    # keeps: a full queue refuses messages and they wait in the spools, an alarm would stop the acknowledgements too.
    most_bytes: int = 2 << 30

    @property
    def dead_queue(self) -> str:
        return f"{self.queue}.dead"

    @property
    def queue_arguments(self) -> dict[str, Any]:
        """At-least-once dead lettering needs reject-publish; without it the broker falls back to at-most-once."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-overflow": "reject-publish",
            "x-max-length-bytes": self.most_bytes,
            # The default exchange: it always exists, and every queue is bound to it by its name. An exchange of our
            # own would be one more thing that somebody can unbind, and nobody would notice until it is needed.
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.dead_queue,
            "x-dead-letter-strategy": "at-least-once",
        }

    @property
    def dead_queue_arguments(self) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": _DEAD_LETTER_DELIVERY_LIMIT,
            "x-overflow": "drop-head",
            "x-max-length-bytes": _MOST_DEAD_LETTER_BYTES,
        }


async def declare(channel: AbstractChannel, topology: Topology) -> None:
    """Make what is missing. Dead letters first: the queue must never be without a place for them."""
    await channel.queue_declare(topology.dead_queue, durable=True, arguments=topology.dead_queue_arguments)
    await channel.exchange_declare(topology.exchange, exchange_type="topic", durable=True)
    await channel.queue_declare(topology.queue, durable=True, arguments=topology.queue_arguments)
    await channel.queue_bind(topology.queue, topology.exchange, topology.routing_key)
