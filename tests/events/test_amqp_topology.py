"""What both ends declare, read back from a real RabbitMQ: the contract's names, and queues that lose nothing."""

import pytest

from tests.backends.rabbitmq import Rabbitmq
from tests.events.memory_spool import MemorySpool
from tests.events.test_amqp_publisher import broker_of, publishing, until
from urlshortener.events.amqp import AmqpSource, Broker, Topology


async def publisher_declares(broker: Broker, topology: Topology) -> None:
    spool = MemorySpool()
    spool.add(1)
    async with publishing(broker, spool, topology) as publisher:
        assert await publisher.drain(15) == 0


async def consumer_declares(broker: Broker, topology: Topology) -> None:
    source = AmqpSource(broker, topology)
    async with source.deliveries():
        await until(lambda: source.is_connected, "the consumer is connected")
    await source.close()


async def test_either_end_alone_makes_what_the_contract_says_and_the_other_finds_it_right(
    rabbitmq: Rabbitmq, caplog: pytest.LogCaptureFixture
) -> None:
    for first, second in ((publisher_declares, consumer_declares), (consumer_declares, publisher_declares)):
        vhost = rabbitmq.fresh_vhost()
        broker = broker_of(rabbitmq, vhost)
        await first(broker, Topology())
        declared = rabbitmq.declared(vhost)
        assert [each for each in declared["exchanges"] if not each["name"].startswith("amq.") and each["name"]] == [
            {
                "name": "events",
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
        ]
        queues = {queue["name"]: queue for queue in declared["queues"]}
        assert set(queues) == {"access_logs", "access_logs.dead"}
        for queue in queues.values():
            assert (queue["durable"], queue["auto_delete"]) == (True, False)
        assert queues["access_logs"]["arguments"] == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 1000,
            "x-overflow": "reject-publish",
            "x-max-length-bytes": 2 * 1024**3,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "access_logs.dead",
            "x-dead-letter-strategy": "at-least-once",
        }
        assert queues["access_logs.dead"]["arguments"] == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 1_000_000,
            "x-overflow": "drop-head",
            "x-max-length-bytes": 1024**3,
        }
        # The default exchange, to which every queue is bound by its name, is where dead letters go.
        assert {
            (binding["source_name"], binding["routing_key"], binding["destination_name"], binding["destination_kind"])
            for binding in declared["bindings"]
        } == {
            ("", "access_logs", "access_logs", "queue"),
            ("", "access_logs.dead", "access_logs.dead", "queue"),
            ("events", "access.event", "access_logs", "queue"),
        }

        await second(broker, Topology())
        assert rabbitmq.declared(vhost) == declared
    assert "broker_topology_differs" not in caplog.text


async def test_the_names_are_those_of_the_settings(rabbitmq: Rabbitmq, vhost: str) -> None:
    await publisher_declares(broker_of(rabbitmq, vhost), Topology("shorts", "follows", "follow.made"))
    declared = rabbitmq.declared(vhost)
    assert {queue["name"] for queue in declared["queues"]} == {"follows", "follows.dead"}
    assert ("shorts", "follow.made", "follows") in {
        (binding["source_name"], binding["routing_key"], binding["destination_name"])
        for binding in declared["bindings"]
    }


async def test_each_end_has_a_connection_of_its_own_that_notices_within_seconds_when_the_other_is_gone(
    rabbitmq: Rabbitmq, vhost: str
) -> None:
    broker = broker_of(rabbitmq, vhost)
    source = AmqpSource(broker, Topology())
    async with publishing(broker, MemorySpool()), source.deliveries():
        wanted = {"url-shortener publish": 5, "url-shortener consume": 5}
        await until(lambda: rabbitmq.connections(vhost) == wanted, "both are connected, with heartbeats of 5 s")
    await source.close()
