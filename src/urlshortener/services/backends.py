"""From an address to the back end behind it: the only place that looks at schemes.

Drivers are imported only when they are wanted, so that a laptop pays for no RabbitMQ client.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from urlshortener.errors import WrongSetting
from urlshortener.events.channel import EventSource
from urlshortener.events.dead_letters import DeadLetters, SpoolDeadLetters
from urlshortener.events.spool import Spool
from urlshortener.links.store import LinkStore
from urlshortener.settings import Address, Settings
from urlshortener.stats.access import RequestMemory
from urlshortener.stats.store import StatsStore

if TYPE_CHECKING:
    from urlshortener.events import amqp
    from urlshortener.events.amqp_checkup import BrokerHost
    from urlshortener.links.postgresql_checkup import DatabaseHost
    from urlshortener.links.postgresql_connector import Servers
    from urlshortener.stats import redis_connection
    from urlshortener.stats.redis_checkup import CountsHost, SentinelHost

# Which kinds of address each command takes. A file belongs to one process: what two processes share is on a server.
ALLOWED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "run": {
        "LINKS_URL": ("sqlite", "postgresql"),
        "EVENTS_URL": ("in-process", "amqp"),
        "STATS_URL": ("sqlite", "redis", "redis+sentinel"),
    },
    "shortener": {"LINKS_URL": ("postgresql",), "EVENTS_URL": ("amqp",)},
    "analytics": {"LINKS_URL": ("postgresql",), "EVENTS_URL": ("amqp",), "STATS_URL": ("redis", "redis+sentinel")},
    "migrate": {"LINKS_URL": ("sqlite", "postgresql")},
}


def check_addresses(command: str, settings: Settings) -> None:
    """Raise WrongSetting unless the command can work with these addresses together."""
    for name, schemes in ALLOWED[command].items():
        scheme = getattr(settings, name.lower()).scheme
        if scheme not in schemes:
            right = " or ".join(f"{right}://" for right in schemes)
            raise WrongSetting(f"{name}: `urlshortener {command}` shares it with other processes: {right} is needed.")
    if settings.links_read_url and settings.links_url.scheme != "postgresql":
        raise WrongSetting("LINKS_READ_URL: replicas are for a LINKS_URL that begins with postgresql://.")


def open_links(settings: Settings) -> LinkStore:
    """The store of links; connects when it is first asked."""
    match settings.links_url.scheme:
        case "sqlite":
            from urlshortener.links import sqlite  # noqa: PLC0415

            return sqlite.open_store(_file(settings.links_url, "LINKS_URL"))
        case _:
            from urlshortener.links import postgresql  # noqa: PLC0415

            replicas = _postgresql(settings.links_read_url) if settings.links_read_url else None
            return postgresql.open_store(_postgresql(settings.links_url), replicas)


def _postgresql(address: Address) -> "Servers":
    from urlshortener.links.postgresql_connector import Servers  # noqa: PLC0415

    return Servers(address.hosts, address.user, address.password, address.path)


def open_stats(settings: Settings) -> StatsStore:
    """The store of counts; connects when it is first asked."""
    address, retention = settings.stats_url, settings.series_retention
    requests = RequestMemory(settings.request_id_window, settings.request_ids_max)
    match address.scheme:
        case "sqlite":
            from urlshortener.stats import sqlite  # noqa: PLC0415

            return sqlite.SqliteStats(_file(address, "STATS_URL"), retention=retention, requests=requests)
        case _:
            return _redis_stats(address, retention, requests)


def open_source(settings: Settings, spool: Spool | None) -> EventSource:
    """Where events are counted from: the spool of this very process, or the broker's queue."""
    if settings.events_url.scheme == "in-process":
        from urlshortener.events.in_process import InProcessSource  # noqa: PLC0415

        assert spool is not None, "check_addresses lets in-process:// come only with a spool of the same process"
        return InProcessSource(spool)
    from urlshortener.events import amqp  # noqa: PLC0415

    return amqp.AmqpSource(_broker(settings), _topology(settings))


def open_publisher(settings: Settings, spool: Spool) -> "amqp.AmqpPublisher":
    """What sends the spool to the broker."""
    from urlshortener.events import amqp  # noqa: PLC0415

    return amqp.AmqpPublisher(_broker(settings), _topology(settings), spool)


def open_dead_letters(settings: Settings) -> DeadLetters:
    """Where what is no event waits for a person."""
    if settings.events_url.scheme == "in-process":
        return SpoolDeadLetters(settings.spool_dir)
    from urlshortener.events import amqp  # noqa: PLC0415

    return amqp.AmqpDeadLetters(_broker(settings), _topology(settings))


async def migrate_links(settings: Settings) -> str:
    """Bring the database of links up to date; say what was done."""
    match settings.links_url.scheme:
        case "sqlite":
            from urlshortener.links import sqlite  # noqa: PLC0415

            return str(await sqlite.migrate(_file(settings.links_url, "LINKS_URL")))
        case _:
            from urlshortener.links import postgresql  # noqa: PLC0415

            return str(await postgresql.migrate(_postgresql(settings.links_url)))


def _file(address: Address, name: str) -> Path:
    if not address.path or address.hosts:
        raise WrongSetting(f"{name}: three slashes and a path are needed, as sqlite:///data/file.db")
    return Path(address.path)


async def look_at_links(settings: Settings) -> tuple[list["DatabaseHost"], list["DatabaseHost"], str]:
    """The hosts of LINKS_URL, those of LINKS_READ_URL, and the schema that this version wants."""
    from urlshortener.links import migrations, postgresql_checkup  # noqa: PLC0415

    hosts = await postgresql_checkup.look_at(_postgresql(settings.links_url))
    replicas = settings.links_read_url
    of_replicas = await postgresql_checkup.look_at(_postgresql(replicas)) if replicas else []
    return hosts, of_replicas, migrations.newest()


async def look_at_broker(settings: Settings) -> list["BrokerHost"]:
    """The hosts of EVENTS_URL."""
    from urlshortener.events import amqp_checkup  # noqa: PLC0415

    return await amqp_checkup.look_at(_broker(settings), _topology(settings))


async def look_at_counts(settings: Settings) -> tuple[list["CountsHost"], list["SentinelHost"]]:
    """The Redis servers of STATS_URL, and the sentinels that know them."""
    from urlshortener.stats import redis_checkup, redis_connection  # noqa: PLC0415

    place = _redis_place(settings.stats_url)
    if isinstance(place, redis_connection.RedisServer):
        return await redis_checkup.look_at(place, {(place.host, place.port)}), []
    sentinels = await redis_checkup.look_at_sentinels(place)
    hosts = {host for sentinel in sentinels for host in (sentinel.master, *sentinel.replicas) if host}
    return await redis_checkup.look_at(place, hosts), sentinels


def has_no_links_yet(settings: Settings) -> bool:
    """Whether they would be in a file that nobody has made."""
    return settings.links_url.scheme == "sqlite" and not _file(settings.links_url, "LINKS_URL").exists()


def has_no_counts_yet(settings: Settings) -> bool:
    return settings.stats_url.scheme == "sqlite" and not _file(settings.stats_url, "STATS_URL").exists()


def _redis_stats(address: Address, retention: timedelta, requests: RequestMemory) -> StatsStore:
    from urlshortener.stats import redis, redis_connection  # noqa: PLC0415

    connection = redis_connection.RedisConnection(_redis_place(address))
    return redis.RedisStats(connection, retention=retention, requests=requests)


def _redis_place(address: Address) -> "redis_connection.RedisServer | redis_connection.Sentinels":
    from urlshortener.stats import redis_connection  # noqa: PLC0415

    master, _, database = address.path.rpartition("/")
    if (database and not database.isdigit()) or (address.scheme == "redis") != (not master):
        raise WrongSetting("STATS_URL: the path is /DATABASE, behind sentinels /MASTER/DATABASE, as /mymaster/0")
    number = int(database or 0)
    if address.scheme == "redis":
        host, port = address.hosts[0]
        return redis_connection.RedisServer(host, port, address.password, address.user, number)
    return redis_connection.Sentinels(address.hosts, master, address.password, address.user, number)


def _broker(settings: Settings) -> "amqp.Broker":
    from urlshortener.events import amqp  # noqa: PLC0415

    address = settings.events_url
    return amqp.Broker(address.hosts, address.user or "guest", address.password or "guest", address.path or "/")


def _topology(settings: Settings) -> "amqp.Topology":
    from urlshortener.events import amqp  # noqa: PLC0415

    return amqp.Topology(settings.events_exchange, settings.events_queue, settings.events_routing_key)
