"""The little of HTTP that the drill's senders need, cheaply: one request at a time on connections that are kept."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

CLOSED_UNHEARD = "closed-unheard"
"""A connection that had been kept was closed without a byte of an answer: a browser asks again."""

_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        _, found, rest = self.head.partition(b"\r\n" + name + b": ")
        return rest.partition(b"\r\n")[0] if found else b""


@dataclass(slots=True, eq=False)
class Errand:
    """A request on its way. `done` is called once: with the answer, or with None and the reason why there is none."""

    data: bytes
    done: Callable[[Answer | None, str], None]
    is_head: bool = False
    due: float = 0.0  # when it has taken too long
    tried: list[int] = field(default_factory=list)  # the doors that refused a connection


class Connection(asyncio.Protocol):
    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._is_kept = False  # since an answer came on it
        self.errand: Errand | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, errand: Errand) -> None:
        assert self._transport is not None
        self.errand = errand
        self._transport.write(errand.data)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_HEAD_END)
        if not found or self.errand is None:
            return
        length = 0 if self.errand.is_head else _length(head)
        if len(body) >= length:
            self._received = b""
            self._is_kept = True
            errand, self.errand = self.errand, None
            answer = Answer(int(head[9:12]), head, body)
            if b"\r\nconnection: close" in head.lower():
                self.abort("closed")
            else:
                self._pool.give_back(self)
            errand.done(answer, "")

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.forget(self)
        self._fail(CLOSED_UNHEARD if self._is_kept and not self._received else "broken")

    def abort(self, reason: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        if self.errand is not None:
            errand, self.errand = self.errand, None
            errand.done(None, reason)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length: ")
    return int(rest.partition(b"\r\n")[0]) if found else 0


class Pool:
    """Connections to one door. The one that was used last is used next, as the rest may be closed by then."""

    def __init__(self, address: tuple[str, int], local_addresses: Sequence[str] = ()) -> None:
        self.address = address
        self._local_addresses = local_addresses
        self._opened = 0
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, errand: Errand, refused: Callable[[Errand], None]) -> None:
        """On a free connection, or on a new one; `refused` is called if there is none to be had."""
        if self._idle:
            self._idle.pop().ask(errand)
            return
        opening = asyncio.create_task(self._send_on_new(errand, refused))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _send_on_new(self, errand: Errand, refused: Callable[[Errand], None]) -> None:
        self._opened += 1
        mine = self._local_addresses[self._opened % len(self._local_addresses)] if self._local_addresses else None
        try:
            async with asyncio.timeout(1):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), *self.address, local_addr=(mine, 0) if mine else None
                )
        except OSError:
            refused(errand)
        else:
            self._open.add(connection)
            connection.ask(errand)

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def abort_overdue(self, now: float) -> None:
        for connection in list(self._open):
            if connection.errand is not None and connection.errand.due and connection.errand.due < now:
                connection.abort("timeout")

    def close(self) -> None:
        for opening in self._opening:
            opening.cancel()
        for connection in list(self._open):
            connection.abort("closed")


async def ask_all(
    address: tuple[str, int], requests: Sequence[bytes], connections: int = 16, *, is_head: bool = False
) -> list[Answer]:
    """Each of the requests, as fast as they are answered. One whose connection broke is asked again, a few times."""
    pool = Pool(address)
    answers: list[Answer | None] = [None] * len(requests)
    numbers = iter(range(len(requests)))

    async def one_after_the_other() -> None:
        for number in numbers:
            for patience in (0.1, 1.0, 3.0, None):
                try:
                    answers[number] = await one(requests[number])
                    break
                except OSError:
                    if patience is None:
                        raise
                    await asyncio.sleep(patience)

    async def one(request: bytes) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        pool.send(Errand(request, _into(answered), is_head), lambda e: e.done(None, "refused"))
        async with asyncio.timeout(30):
            return await answered

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(one_after_the_other())
    finally:
        pool.close()
    return [answer for answer in answers if answer is not None]


def _into(future: "asyncio.Future[Answer]") -> Callable[[Answer | None, str], None]:
    def done(answer: Answer | None, reason: str) -> None:
        if future.done():
            return
        if answer is None:
            future.set_exception(ConnectionError(reason))
        else:
            future.set_result(answer)

    return done
