"""A proxy in front of PostgreSQL that loses what a commit said: the case that only identity can solve."""

import asyncio
import contextlib
from typing import Self


class CutReplies:
    """Carries bytes to and fro until `cut_next_commit` is set; then the next COMMIT gets no reply but the end.

    `commit_arrives` says whether the server gets to see it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.cut_next_commit = False
        self.commit_arrives = True
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self._to)
        replies = asyncio.create_task(self._replies(server, to_client))
        with contextlib.suppress(OSError):
            while data := await client.read(65536):
                if self.cut_next_commit and b"COMMIT" in data:
                    self.cut_next_commit = False
                    self.cuts += 1
                    replies.cancel()
                    await asyncio.wait({replies})
                    if self.commit_arrives:
                        to_server.write(data)
                        await server.read(1)  # it is done, and nobody will hear of it
                    break
                to_server.write(data)
        replies.cancel()
        to_client.transport.abort()
        to_server.transport.abort()

    async def _replies(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await server.read(65536):
                to_client.write(data)
        to_client.close()
