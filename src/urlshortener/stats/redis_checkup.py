"""What is found at each Redis and each sentinel, for a person who wants to know."""

import asyncio
from dataclasses import dataclass

from redis.exceptions import AuthenticationError, RedisError

from urlshortener.stats.redis_connection import Line, RedisServer, Sentinels, connection_to, info_of

_LIMIT_SECONDS = 2.5


@dataclass(frozen=True, slots=True)
class CountsHost:
    """One Redis, as it answered."""

    host: str
    away: str = ""  # why it did not answer
    role: str = ""  # master, or slave
    policy: str = ""
    used_bytes: int = 0
    most_bytes: int = 0  # 0: all there is
    has_append_only_file: bool = False
    replicas: int = 0  # that are online
    link_to_master: str = ""  # of a replica


@dataclass(frozen=True, slots=True)
class SentinelHost:
    """One sentinel, and where it believes the master to be."""

    host: str
    away: str = ""
    master: tuple[str, int] | None = None
    replicas: tuple[tuple[str, int], ...] = ()


async def look_at_sentinels(place: Sentinels) -> list[SentinelHost]:
    return list(await asyncio.gather(*(_sentinel(host, port, place.master) for host, port in place.hosts)))


async def look_at(place: RedisServer | Sentinels, hosts: set[tuple[str, int]]) -> list[CountsHost]:
    return list(await asyncio.gather(*(_redis(place, host, port) for host, port in sorted(hosts))))


async def _redis(place: RedisServer | Sentinels, host: str, port: int) -> CountsHost:
    name = f"{host}:{port}"
    line = Line(connection_to(host, port, place))
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            (text, policy) = await line.exchange([("INFO",), ("CONFIG", "GET", "maxmemory-policy")])
        if isinstance(text, RedisError):
            return CountsHost(name, away=_reason(text))
    except (RedisError, OSError, TimeoutError) as error:
        return CountsHost(name, away=_reason(error))
    finally:
        await line.close()
    info = info_of(text)
    return CountsHost(
        name,
        role=info["role"],
        policy="" if isinstance(policy, RedisError) or len(policy) < 2 else policy[1].decode(),
        used_bytes=int(info["used_memory"]),
        most_bytes=int(info["maxmemory"]),
        has_append_only_file=info["aof_enabled"] == "1",
        replicas=sum("state=online" in value for key, value in info.items() if key.startswith("slave")),
        link_to_master=info.get("master_link_status", ""),
    )


async def _sentinel(host: str, port: int, master: str) -> SentinelHost:
    name = f"{host}:{port}"
    line = Line(connection_to(host, port, RedisServer(host, port)))
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            address, replicas = await line.exchange(
                [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master), ("SENTINEL", "REPLICAS", master)]
            )
    except (RedisError, OSError, TimeoutError) as error:
        return SentinelHost(name, away=_reason(error))
    finally:
        await line.close()
    if isinstance(address, RedisError) or not address:
        return SentinelHost(name)
    known = (
        [] if isinstance(replicas, RedisError) else [dict(zip(one[::2], one[1::2], strict=False)) for one in replicas]
    )
    return SentinelHost(
        name,
        master=(address[0].decode(), int(address[1])),
        replicas=tuple((one[b"ip"].decode(), int(one[b"port"])) for one in known),
    )


def _reason(error: Exception) -> str:
    word = str(error).partition(" ")[0]
    match error:
        case AuthenticationError():
            return "it refuses the user or the password"
        case TimeoutError():
            return "it did not answer in time"
        case RedisError() if word.isupper():
            return {"NOAUTH": "it wants a password", "LOADING": "it is loading its data"}.get(word, word)
        case _:
            return (
                "nobody listens there"
                if "refused" in str(error).lower() or "111" in str(error)
                else type(error).__name__
            )
