"""From an address to the back end behind it: the only place that looks at schemes.

Drivers are imported only when they are wanted, so that a laptop pays for no RabbitMQ client.
"""

from datetime import timedelta
from pathlib import Path

from urlshortener.errors import WrongSetting
from urlshortener.events.channel import EventSource
from urlshortener.events.spool import Spool
from urlshortener.links.store import LinkStore
from urlshortener.settings import Address, Settings
from urlshortener.stats.store import StatsStore

# Which kinds of address each command takes. A file belongs to one process: what two processes share is on a server.
ALLOWED = {
    "run": {"LINKS_URL": ("sqlite", "postgresql"), "EVENTS_URL": ("in-process", "amqp"), "STATS_URL": ("sqlite", "redis", "redis+sentinel")},
    "shortener": {"LINKS_URL": ("postgresql",), "EVENTS_URL": ("amqp",)},
    "analytics": {"LINKS_URL": ("postgresql",), "EVENTS_URL": ("amqp",), "STATS_URL": ("redis", "redis+sentinel")},
    "migrate": {"LINKS_URL": ("sqlite", "postgresql")},
}  # fmt: skip


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

            return postgresql.open_store(
                _postgresql(settings.links_url), settings.links_read_url and _postgresql(settings.links_read_url)
            )


def _postgresql(address: Address) -> "postgresql.Servers":
    from urlshortener.links import postgresql  # noqa: PLC0415

    return postgresql.Servers(address.hosts, address.user, address.password, address.path)


def open_stats(settings: Settings) -> StatsStore:
    """The store of counts; connects when it is first asked."""
    address, retention = settings.stats_url, settings.series_retention
    match address.scheme:
        case "sqlite":
            from urlshortener.stats import sqlite  # noqa: PLC0415

            return sqlite.SqliteStats(_file(address, "STATS_URL"), retention=retention)
        case "redis":
            return _redis_stats(address, retention, sentinels=False)
        case _:
            return _redis_stats(address, retention, sentinels=True)


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
