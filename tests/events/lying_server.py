"""A broker on a real socket that confirms as it likes: several at once, out of order, not at all, or by closing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

from pamqp import frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Confirm, Exchange, Queue
from pamqp.commands import Connection as Amqp
from pamqp.exceptions import UnmarshalingException
from pamqp.frame import FrameTypes
from pamqp.header import ProtocolHeader

Said = Basic.Ack | Basic.Nack | None  # None: it closes the connection

_ANSWERS: dict[type[Any], Callable[[Any], Frame]] = {
    Amqp.StartOk: lambda _: Amqp.Tune(2047, 131072, 60),
    Amqp.Open: lambda _: Amqp.OpenOk(),
    Amqp.Close: lambda _: Amqp.CloseOk(),
    Channel.Open: lambda _: Channel.OpenOk(),
    Channel.Close: lambda _: Channel.CloseOk(),
    Confirm.Select: lambda _: Confirm.SelectOk(),
    Exchange.Declare: lambda _: Exchange.DeclareOk(),
    Queue.Declare: lambda asked: Queue.DeclareOk(asked.queue, 0, 0),
    Queue.Bind: lambda _: Queue.BindOk(),
}


class LyingServer:
    """`says` is asked after each message, with its number on the connection (from 1), what to say then.

    `kept` are the bodies that it has truly confirmed; `connections` how many it has had.
    """

    def __init__(self, says: Callable[[int, int], Iterable[Said]]) -> None:
        self._says = says
        self.kept: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.host, self.port = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, came = self.connections, list[bytes]()
        try:
            async for channel, part in _frames(reader):
                if isinstance(part, ProtocolHeader):
                    writer.write(frame.marshal(Amqp.Start(0, 9, _ABLE, "PLAIN", "en_US"), 0))
                elif isinstance(part, ContentBody):
                    came.append(part.value or b"")
                    self.bodies.append(came[-1])
                    for said in self._says(connection, len(came)):
                        if said is None:
                            return
                        self._keep(said, came)
                        writer.write(frame.marshal(said, channel))
                elif answer := _ANSWERS.get(type(part)):
                    writer.write(frame.marshal(answer(part), channel))
        except OSError:
            return
        finally:
            writer.close()

    def _keep(self, said: Basic.Ack | Basic.Nack, came: list[bytes]) -> None:
        if isinstance(said, Basic.Ack):
            assert said.delivery_tag
            first = 1 if said.multiple else said.delivery_tag
            self.kept += came[first - 1 : said.delivery_tag]


_ABLE: dict[str, Any] = {
    "capabilities": {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True},
    "product": "a liar",
}


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, FrameTypes]]:
    data = b""
    while more := await reader.read(1 << 17):
        data += more
        while data:
            try:
                size, channel, part = frame.unmarshal(data)
            except UnmarshalingException:  # the rest of it has not come yet
                break
            data = data[size:]
            yield channel, part
