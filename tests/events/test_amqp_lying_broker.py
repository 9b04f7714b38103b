"""A spool on disk and its publisher against a broker that answers as it likes, when it likes, or never; and kills."""

import asyncio
import contextlib
import heapq
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Never, cast

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError, PublishError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tests.events.test_spool import _forget, appended, identities
from urlshortener.events.amqp import AmqpPublisher, Broker, Topology
from urlshortener.events.amqp_connection import Connection, Lost
from urlshortener.events.spool import Batch, Spool

Identity = tuple[str, int]

_RETURN = Basic.Return(312, "NO_ROUTE", "events", "access.event")
_ANSWERS: dict[str, Basic.Ack | Basic.Nack | BaseException] = {
    "ack": Basic.Ack(1),
    "nack": DeliveryError(None, Basic.Nack(1)),
    "nack that is no error": Basic.Nack(1),
    "return": PublishError(DeliveredMessage(_RETURN, ContentHeader(), b"", cast(Any, None)), _RETURN),
    "closed": ChannelInvalidStateError("closed"),
    "cancelled by the driver": asyncio.CancelledError(),
    "reset": ConnectionResetError(),
}


class _Clock(asyncio.SelectorEventLoop):
    """An event loop whose time is moved by hand."""

    seconds = 0.0

    def time(self) -> float:
        return self.seconds

    def settle(self) -> None:
        """Until nothing more happens at this instant."""
        for _ in range(60):
            self.run_until_complete(asyncio.sleep(0))

    def advance(self, seconds: float) -> None:
        end = self.seconds + seconds
        self.settle()
        while due := [handle for handle in cast(Any, self)._scheduled if handle.when() <= end]:
            self.seconds = max(self.seconds, heapq.nsmallest(1, due)[0].when())
            self.settle()
        self.seconds = end


class _Liar:
    """A broker's side of one connection: it remembers what it truly keeps."""

    def __init__(self, kept: set[Identity]) -> None:
        self.channel = self
        self.asked: list[tuple[set[Identity], asyncio.Future[Basic.Ack | Basic.Nack]]] = []
        self.gone = asyncio.get_running_loop().create_future()
        self.takes = asyncio.Event()
        self.takes.set()
        self.took_while_blocked = False
        self._kept = kept

    async def basic_publish(
        self, body: bytes, *, properties: Basic.Properties, mandatory: bool, **_: object
    ) -> Basic.Ack | Basic.Nack:
        assert mandatory
        said = cast(Any, properties.headers)
        assert body.startswith(b"[") == (said["count"] != 1)
        self.took_while_blocked |= not self.takes.is_set()
        events = json.loads(body) if said["count"] != 1 else [json.loads(body)]
        numbers = {(event["epoch"], event["seq"]) for event in events}
        assert numbers == {(said["epoch"], said["first_seq"] + place) for place in range(said["count"])}
        assert all(seq <= said["highest_seq"] for _, seq in numbers)
        answer: asyncio.Future[Basic.Ack | Basic.Nack] = asyncio.get_running_loop().create_future()
        self.asked.append((numbers, answer))
        return await answer

    def answer(self, which: int, how: str) -> None:
        numbers, answer = self.asked.pop(which % len(self.asked))
        if answer.done():
            return
        said = _ANSWERS[how]
        if isinstance(said, Basic.Ack):
            self._kept.update(numbers)
        if isinstance(said, BaseException):
            answer.set_exception(said)
        else:
            answer.set_result(said)

    async def fail_when_lost(self) -> Never:
        await asyncio.wait([self.gone])
        raise Lost("gone")

    async def unblocked(self) -> None:
        await self.takes.wait()

    async def is_blocked(self) -> bool:
        return not self.takes.is_set()


class _LiedTo(AmqpPublisher):
    """The publisher, connected to liars."""

    def __init__(self, spool: Spool, kept: set[Identity]) -> None:
        super().__init__(Broker((), "", "", ""), Topology(), spool)
        self.liar: _Liar | None = None
        self.refusals = 0
        self._truly_kept = kept

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if self.refusals:
            self.refusals -= 1
            raise Lost("refused")
        self.liar = _Liar(self._truly_kept)
        try:
            yield cast(Connection, self.liar)
        finally:
            self.liar = None


class _TellingSpool(Spool):
    """One that remembers what it was told to be elsewhere."""

    def __init__(self, folder: Path, clock: Callable[[], float], told_done: set[Identity]) -> None:
        super().__init__(folder, 1 << 30, clock)
        self._told_done = told_done

    def done(self, batch: Batch) -> None:
        self._told_done.update(identities(batch))
        super().done(batch)


class LyingBroker(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = _Clock()
        self.folder = Path(tempfile.mkdtemp(prefix="lying-broker-"))
        self.appended: set[Identity] = set()
        self.told_done: set[Identity] = set()
        self.kept: set[Identity] = set()
        self._start()

    def _start(self) -> None:
        self.spool = _TellingSpool(self.folder, lambda: 1.79e9 + self.loop.seconds, self.told_done)
        self.publisher = _LiedTo(self.spool, self.kept)
        self.running = self.loop.create_task(self.publisher.run())
        self.loop.settle()

    @rule(count=st.integers(1, 600))
    def events_come(self, count: int) -> None:
        async def append() -> None:
            first = self.spool._next_seq
            await [appended(self.spool) for _ in range(count)][-1]
            self.appended.update((self.spool.epoch, first + place) for place in range(count))

        self.loop.run_until_complete(append())
        self.loop.settle()

    @rule(cleanly=st.booleans())
    def the_process_ends_and_another_comes(self, cleanly: bool) -> None:
        if cleanly:
            self.spool.end_epoch()
            self.loop.settle()
        self.running.cancel()
        self.loop.settle()
        if cleanly:
            self.spool.close()
        else:
            _forget(self.spool)
        self._start()

    @precondition(lambda self: self.publisher.liar and self.publisher.liar.asked)
    @rule(which=st.integers(0, 63), how=st.sampled_from(sorted(_ANSWERS)))
    def it_answers(self, which: int, how: str) -> None:
        liar = self.publisher.liar
        assert liar
        liar.answer(which, how)
        self.loop.settle()
        if how != "ack":
            assert self.publisher.liar is not liar, "a connection was used again after a failure"

    @precondition(lambda self: self.publisher.liar)
    @rule()
    def the_connection_goes(self) -> None:
        assert self.publisher.liar
        self.publisher.liar.gone.set_result(None)
        self.loop.settle()

    @precondition(lambda self: self.publisher.liar)
    @rule(blocked=st.booleans())
    def it_is_blocked_or_not(self, blocked: bool) -> None:
        assert self.publisher.liar
        if blocked:
            self.publisher.liar.takes.clear()
        else:
            self.publisher.liar.takes.set()
        self.loop.settle()

    @rule(times=st.integers(1, 3))
    def connecting_fails(self, times: int) -> None:
        self.publisher.refusals = times

    @rule(seconds=st.sampled_from([0.01, 0.3, 6.0, 16.0]))
    def time_passes(self, seconds: float) -> None:
        liar = self.publisher.liar
        waited_for = liar and liar.takes.is_set() and bool(liar.asked)
        self.loop.advance(seconds)
        if seconds > 15.5 and waited_for:
            assert self.publisher.liar is not liar, "a confirm that never came was waited for"

    @invariant()
    def only_what_is_kept_leaves_the_spool(self) -> None:
        assert self.told_done <= self.kept <= self.appended

    @invariant()
    def the_window_is_bounded(self) -> None:
        if self.publisher.liar:
            assert len(self.publisher.liar.asked) <= 64
            assert not self.publisher.liar.took_while_blocked

    def teardown(self) -> None:
        """When it stops lying, every event is confirmed, without anybody's help."""
        for _ in range(400):
            if not self.spool.unsent:
                break
            self.publisher.refusals = 0
            if self.publisher.liar:
                self.publisher.liar.takes.set()
                while self.publisher.liar and self.publisher.liar.asked:
                    self.publisher.liar.answer(0, "ack")
            self.loop.advance(0.1)
        assert not self.running.done(), "the publisher ended"
        assert self.spool.unsent == 0
        assert self.kept == self.appended
        self.running.cancel()
        self.loop.settle()
        self.spool.close()
        self.loop.close()
        shutil.rmtree(self.folder)


TestLyingBroker = LyingBroker.TestCase
TestLyingBroker.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
