"""The queue of dead letters: looked at without taking anything, and sent on its way again, confirmed."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from urlshortener.events.amqp_connection import Broker, Dialler, NotTaken, in_our_words
from urlshortener.events.amqp_topology import Topology
from urlshortener.events.dead_letters import DeadLetter, Replayed

_ANSWER_SECONDS = 10.0
_MOST_UNDER_WAY = 64


class AmqpDeadLetters:
    """Dead letters of the broker. What is not acknowledged when the connection ends is in the queue again."""

    def __init__(self, broker: Broker, topology: Topology) -> None:
        self._dialler = Dialler(broker, topology, "dead-letters")
        self._topology = topology

    async def first(self, most: int) -> Sequence[DeadLetter]:
        async with self._dialler.connection() as connection:
            return [_letter(message) for message in await self._taken(connection.channel, most)]

    async def replay(self, most: int, *, all_of_them: bool, progress: Callable[[int], None]) -> Replayed:
        """Each is published to the exchange and confirmed before it leaves the dead letters.

        No more than lay there at the beginning: one that comes back is not sent in circles.
        """
        sent = left = 0
        async with self._dialler.connection() as connection:
            channel = connection.channel
            most = min(most, await self._depth(channel))
            while sent + left < most:
                messages = await self._taken(channel, min(_MOST_UNDER_WAY, most - sent - left))
                if not messages:
                    break
                chosen = [message for message in messages if all_of_them or _letter(message).is_an_event_now]
                await asyncio.gather(*(self._publish(channel, message) for message in chosen))
                for message in chosen:
                    with in_our_words():
                        await channel.basic_ack(_tag(message))
                sent, left = sent + len(chosen), left + len(messages) - len(chosen)
                progress(sent)
        return Replayed(sent, left)

    async def _depth(self, channel: AbstractChannel) -> int:
        with in_our_words():
            queue = await channel.queue_declare(self._topology.dead_queue, passive=True, timeout=_ANSWER_SECONDS)
        return queue.message_count or 0

    async def _taken(self, channel: AbstractChannel, most: int) -> list[DeliveredMessage]:
        messages: list[DeliveredMessage] = []
        while len(messages) < most:
            with in_our_words():
                message = await channel.basic_get(self._topology.dead_queue, timeout=_ANSWER_SECONDS)
            if not isinstance(message.delivery, Basic.GetOk):
                break
            messages.append(message)
        return messages

    async def _publish(self, channel: AbstractChannel, message: DeliveredMessage) -> None:
        old = message.header.properties
        headers = {name: value for name, value in (old.headers or {}).items() if name not in _OF_THE_DEATH}
        with in_our_words():
            answer = await channel.basic_publish(
                message.body,
                exchange=self._topology.exchange,
                routing_key=self._topology.routing_key,
                properties=Basic.Properties(
                    content_type=old.content_type, message_id=old.message_id, delivery_mode=2, headers=headers
                ),
                mandatory=True,
                timeout=_ANSWER_SECONDS,
            )
        if not isinstance(answer, Basic.Ack):
            raise NotTaken("The message was not confirmed; it is still among the dead letters.")


_OF_THE_DEATH = frozenset(
    ("reason", "x-death", "x-delivery-count", "x-first-death-reason", "x-first-death-queue", "x-first-death-exchange")
)


def _tag(message: DeliveredMessage) -> int:
    assert isinstance(message.delivery, Basic.GetOk) and message.delivery.delivery_tag is not None
    return message.delivery.delivery_tag


def _letter(message: DeliveredMessage) -> DeadLetter:
    """With the reason of ours, or else the broker's own."""
    properties = message.header.properties
    headers: dict[str, Any] = dict(properties.headers or {})
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    by_the_broker = f"the broker gave it up: {death.get('reason', 'it does not say why')}"
    at = properties.timestamp or death.get("time")
    if isinstance(at, datetime):
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return DeadLetter(str(headers.get("reason") or by_the_broker), at, message.body)
