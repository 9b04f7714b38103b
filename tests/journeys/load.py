"""Visitors: as many redirects as asked for, as fast as they are answered, over connections that are kept."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

Item = TypeVar("Item")
Result = TypeVar("Result")

_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


@dataclass
class Visits:
    """What visitors got."""

    redirected: dict[str, int] = field(default_factory=dict)  # by code
    refused: list[str] = field(default_factory=list)  # anything that was not the redirect

    @property
    def count(self) -> int:
        return sum(self.redirected.values())


async def visit(base_url: str, codes: Sequence[str], connections: int = 32) -> Visits:
    """Follow each of the codes once (a code may stand in it many times). A broken connection is a refusal."""
    visits = Visits()
    waiting = iter(codes)
    await asyncio.gather(*(_visitor(base_url, waiting, visits) for _ in range(connections)))
    return visits


async def _visitor(base_url: str, codes: Iterator[str], visits: Visits) -> None:
    where = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        for code in codes:
            writer.write(
                f"GET /{code} HTTP/1.1\r\nHost: {where.netloc}\r\nUser-Agent: {_AGENT}\r\nAccept: */*\r\n\r\n".encode()
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            if head.startswith(b"HTTP/1.1 307 "):
                visits.redirected[code] = visits.redirected.get(code, 0) + 1
            else:
                visits.refused.append(head.split(b"\r\n")[0].decode())
                return
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        visits.refused.append(type(error).__name__)
    finally:
        writer.close()


def eight_at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The same for each item, from eight clients; results in the order of the items."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(work, items))
