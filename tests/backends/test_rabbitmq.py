import asyncio
import contextlib

import aiormq
import pytest
from aiormq.abc import AbstractConnection
from pamqp.common import FieldValue

from tests.backends.rabbitmq import Rabbitmq

_QUORUM: dict[str, FieldValue] = {"x-queue-type": "quorum"}


async def _connect(server: Rabbitmq, vhost: str, password: str | None = None) -> AbstractConnection:
    address = f"amqp://{server.user}:{password or server.password}@{server.host}:{server.port}/{vhost}"
    return await asyncio.wait_for(aiormq.connect(address), 10)


async def _publish_a_cat(connection: AbstractConnection) -> None:
    channel = await connection.channel()
    await channel.queue_declare("cats", durable=True, arguments=_QUORUM)
    await channel.basic_publish(b"tom", routing_key="cats", properties=aiormq.spec.Basic.Properties(delivery_mode=2))


async def test_a_fresh_vhost_is_empty_and_takes_messages(rabbitmq: Rabbitmq, vhost: str) -> None:
    connection = await _connect(rabbitmq, vhost)
    await _publish_a_cat(connection)
    await asyncio.to_thread(rabbitmq.wait_for_queue_depth, vhost, "cats", 1)
    await connection.close()


async def test_a_wrong_password_is_refused(rabbitmq: Rabbitmq, vhost: str) -> None:
    with pytest.raises(aiormq.exceptions.AMQPError):
        await _connect(rabbitmq, vhost, password="no")


async def test_a_confirmed_message_survives_a_kill(own_rabbitmq: Rabbitmq) -> None:
    vhost = own_rabbitmq.fresh_vhost()
    connection = await _connect(own_rabbitmq, vhost)
    await _publish_a_cat(connection)
    own_rabbitmq.kill()
    assert not own_rabbitmq.is_running
    with contextlib.suppress(Exception):  # it is closed already; how the driver says so is not the question
        await asyncio.wait_for(connection.close(), 5)
    await asyncio.to_thread(own_rabbitmq.start)
    connection = await _connect(own_rabbitmq, vhost)
    channel = await connection.channel()
    message = await channel.basic_get("cats", no_ack=True, timeout=10)
    assert message.body == b"tom"
    await connection.close()


async def test_a_paused_server_answers_when_it_is_resumed(own_rabbitmq: Rabbitmq) -> None:
    connection = await _connect(own_rabbitmq, own_rabbitmq.fresh_vhost())
    own_rabbitmq.pause()
    answer = asyncio.ensure_future(connection.channel())
    await asyncio.wait([answer], timeout=0.2)
    assert not answer.done()
    own_rabbitmq.resume()
    assert (await asyncio.wait_for(answer, 10)).number
    await connection.close()


async def test_a_memory_alarm_blocks_until_it_is_cleared(own_rabbitmq: Rabbitmq) -> None:
    vhost = own_rabbitmq.fresh_vhost()
    connection = await _connect(own_rabbitmq, vhost)
    own_rabbitmq.raise_memory_alarm()
    published = asyncio.create_task(_publish_a_cat(connection))
    await asyncio.wait([published], timeout=0.3)
    assert not published.done()
    own_rabbitmq.clear_memory_alarm()
    await asyncio.wait_for(published, 10)
    await connection.close()
