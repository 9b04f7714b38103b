"""A proxy on loopback whose connections break or hang when a test says so: for replies that never come."""

import asyncio
import contextlib
from typing import Self


class CutProxy:
    """Carries bytes between clients and one server, until told otherwise. Clients connect to `host` and `port`.

    What a client sends always reaches the server before the connection is cut for lack of reply bytes: the request was
    done, and nobody hears of it.
    """

    host = "127.0.0.1"

    def __init__(self, to_host: str, to_port: int) -> None:
        self._to = (to_host, to_port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._reply_bytes_left: int | None = None
        self._connections: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self.connections_made = 0
        self.connections_cut = 0
        self.requests = bytearray()  # all that clients sent

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_all()
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    def cut_after_reply_bytes(self, count: int) -> None:
        """Let this many more bytes from the server through, over all connections, and cut the one that has the next.

        One connection is cut; then bytes flow again. With 0, the server's very next answer is lost whole.
        """
        self._reply_bytes_left = count

    def freeze(self) -> None:
        """Nothing comes through any more, in either direction; connections stay open, and new ones are taken."""
        self._flowing.clear()

    def thaw(self) -> None:
        """What was held back goes on its way."""
        self._flowing.set()

    def cut_all(self) -> None:
        """Reset all connections there are; new ones are carried."""
        for pair in list(self._connections):
            self._cut(pair)

    def refuse(self) -> None:
        """Reset all connections there are, and each new one at once."""
        self._refusing = True
        self.cut_all()

    def allow(self) -> None:
        self._refusing = False

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        if self._refusing:
            to_client.transport.abort()
            return
        try:
            server, to_server = await asyncio.open_connection(*self._to)
        except OSError:
            to_client.transport.abort()
            return
        pair = (to_client, to_server)
        self._connections.add(pair)
        for carry in (self._carry_requests(client, to_server), self._carry_replies(server, pair)):
            carrier = asyncio.create_task(carry)
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carriers.discard)

    async def _carry_requests(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await client.read(65536):
                await self._flowing.wait()
                self.requests += data
                to_server.write(data)
                await to_server.drain()
        to_server.close()

    async def _carry_replies(
        self, server: asyncio.StreamReader, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    ) -> None:
        to_client = pair[0]
        with contextlib.suppress(OSError):
            while data := await server.read(65536):
                await self._flowing.wait()
                let_through = self._let_through(data)
                to_client.write(let_through)
                await to_client.drain()
                if len(let_through) < len(data):
                    self.connections_cut += 1
                    to_client.close()  # not a reset: the bytes before the cut do arrive
                    pair[1].transport.abort()
                    break
        to_client.close()
        self._connections.discard(pair)

    def _let_through(self, data: bytes) -> bytes:
        if self._reply_bytes_left is None:
            return data
        if len(data) <= self._reply_bytes_left:
            self._reply_bytes_left -= len(data)
            return data
        count, self._reply_bytes_left = self._reply_bytes_left, None
        return data[:count]

    def _cut(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._connections.discard(pair)
        self.connections_cut += 1
        for side in pair:
            side.transport.abort()
