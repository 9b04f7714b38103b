"""What is found at each host of a database of links, for a person who wants to know."""

import asyncio
from dataclasses import dataclass

import asyncpg

from urlshortener.links.postgresql_connector import Servers

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 2.0

_QUESTION = """
SELECT pg_is_in_recovery() AS is_replica,
       (SELECT count(*) FROM pg_stat_replication) AS replicas,
       (SELECT count(*) FROM pg_stat_wal_receiver) AS receives,
       current_setting('synchronous_standby_names', true) AS synchronous,
       (SELECT count(*) FROM pg_stat_activity) AS connections,
       current_setting('max_connections')::int AS most_connections,
       to_regclass('alembic_version') IS NOT NULL AS has_schema
"""


@dataclass(frozen=True, slots=True)
class DatabaseHost:
    """One PostgreSQL server, as it answered."""

    host: str
    away: str = ""  # why it did not answer
    is_replica: bool = False
    is_receiving: bool = False  # a replica that is connected to its primary
    replicas: int = 0  # connected to it
    is_synchronous: bool = False
    connections: int = 0
    most_connections: int = 0
    schema: str | None = None


async def look_at(servers: Servers) -> list[DatabaseHost]:
    """All hosts at once, within a few seconds, whatever they do."""
    return list(await asyncio.gather(*(_look_at(servers, host, port) for host, port in servers.hosts)))


async def _look_at(servers: Servers, host: str, port: int) -> DatabaseHost:
    name = f"{host}:{port}"
    try:
        connection = await asyncpg.connect(
            host=host,
            port=port,
            user=servers.user,
            password=servers.password,
            database=servers.database,
            timeout=_CONNECT_SECONDS,
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        return DatabaseHost(name, away=_reason(error))
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            row = await connection.fetchrow(_QUESTION)
            assert row is not None
            schema = await connection.fetchval("SELECT version_num FROM alembic_version") if row["has_schema"] else None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return DatabaseHost(name, away=_reason(error))
    finally:
        connection.terminate()
    return DatabaseHost(
        name,
        is_replica=row["is_replica"],
        is_receiving=row["receives"] > 0,
        replicas=row["replicas"],
        is_synchronous=bool(row["synchronous"]),
        connections=row["connections"],
        most_connections=row["most_connections"],
        schema=schema,
    )


_REASONS: tuple[tuple[type[Exception], str], ...] = (  # the first that fits; the driver's words may show names
    (asyncpg.InvalidPasswordError, "it refuses the user or the password"),
    (asyncpg.InvalidAuthorizationSpecificationError, "it refuses the user or the password"),
    (asyncpg.InvalidCatalogNameError, "it has no such database"),
    (asyncpg.TooManyConnectionsError, "it has no connection left"),
    (asyncpg.CannotConnectNowError, "it is starting or stopping"),
    (TimeoutError, "it did not answer in time"),
    (ConnectionRefusedError, "nobody listens there"),
)


def _reason(error: Exception) -> str:
    return next((words for kind, words in _REASONS if isinstance(error, kind)), type(error).__name__)
