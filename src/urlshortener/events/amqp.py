"""RabbitMQ between the two services: a publisher that sends the spool, a source that receives from the queue.

amqp_connection.py   one connection at a time, to whichever host of the broker answers
amqp_topology.py     exchange, queue and dead letters, as both ends declare them
amqp_publisher.py    spool → exchange, confirmed
amqp_source.py       queue → whoever counts, acknowledged late; what is no event → dead letters
amqp_dead_letters.py dead letters → a person's eyes, or the exchange again
amqp_checkup.py      what is found on each host of the broker, for a person
"""

from urlshortener.events.amqp_connection import Broker
from urlshortener.events.amqp_dead_letters import AmqpDeadLetters
from urlshortener.events.amqp_publisher import AmqpPublisher
from urlshortener.events.amqp_source import AmqpSource
from urlshortener.events.amqp_topology import Topology

__all__ = ["AmqpDeadLetters", "AmqpPublisher", "AmqpSource", "Broker", "Topology"]
