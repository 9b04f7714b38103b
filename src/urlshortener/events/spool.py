"""Access events on disk, from the moment before the visitor is answered until somebody else has them for good."""

import asyncio
import contextlib
import errno
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from urlshortener.errors import WrongSetting
from urlshortener.events.epoch import EPOCH_NAME, Batch, Epoch, Held, OtherVersion, is_held
from urlshortener.events.event import Plain, encode, encode_plain
from urlshortener.events.memory import Memory
from urlshortener.events.segment import Frame, framed
from urlshortener.events.strict import Confirmations
from urlshortener.telemetry import (
    EPOCHS_ADOPTED,
    EVENTS_SPOOLED,
    EVENTS_UNSPOOLED,
    LOG,
    SPOOL_BYTES,
    SPOOL_OLDEST_SECONDS,
)

__all__ = ["Batch", "Spool"]

_SEGMENT_BYTES = 8 * 1024 * 1024
_CURSOR_SECONDS = 0.1
_LOOK_AROUND_SECONDS = 3.0
_TRY_AGAIN_SECONDS = 60.0
_COMPLAIN_SECONDS = 10.0
_TRY_DISK_SECONDS = 1.0
_MOST_ADOPTED = 8  # at a time; the others wait in their folders
_TOO_OLD_SECONDS = 7 * 86400  # the counts remember an epoch for 14 days: what is sent later could be counted twice


class _Written(asyncio.Future[None]):
    """Shared by all appends of one turn: one request that is cancelled must not cancel the others' wait."""

    def cancel(self, msg: object = None) -> bool:
        return False


class Spool:
    """One process's events, in a folder of its own below `folder`, and those of dead processes that it adopts.

    All appends of one turn of the event loop become one frame, written with one `write` in the next turn; a written
    frame survives the death of the process. Numbers are never used twice: each start is a new epoch, and the rest
    of the old one is adopted, by whoever gets its lock, and sent under its own numbers.

    A disk that takes nothing (full, or over `max_bytes`) never stops a redirect: then events wait in memory, a few
    thousand of them, are given out first, and go to the disk as soon as it takes some again; those that do not fit are
    counted as unspooled. `max_bytes` is for all that lies in the folder and is no other living process's.

    A `strict` one keeps whoever appends waiting until the events are done: see events/strict.py.
    """

    def __init__(
        self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.time, *, strict: bool = False
    ) -> None:
        self._folder = folder
        self._aside = folder / "quarantine"
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max(1, max_bytes // 4))
        self._clock = clock
        self._own = self._new_epoch()
        self.epoch = self._own.name
        self._event_id = _EventIds()
        self._epochs: dict[str, Epoch] = {}  # all that are sent, oldest first, our own last
        self._left_alone: dict[str, float] = {}  # by this clock: until when
        self._next_seq = 0
        self._turn: list[bytes] = []
        self._turn_began = 0.0
        self._written: _Written | None = None
        self._in_memory = Memory()
        self._arrived = asyncio.Event()
        self._confirmations = Confirmations() if strict else None
        self._cursor_timer: asyncio.TimerHandle | None = None
        self._disk_timer: asyncio.TimerHandle | None = None
        self._waiting_bytes = 0  # of dead processes' spools that nobody has adopted yet
        self._aside_bytes = 0
        self._looked_around = float("-inf")
        self._saw_more = False  # than may be adopted at a time
        self._complained = float("-inf")
        self._is_closed = False
        self._look_around()
        SPOOL_BYTES.set_function(self._bytes_left)
        SPOOL_OLDEST_SECONDS.set_function(self._oldest_seconds)

    def _new_epoch(self) -> Epoch:
        while True:
            folder = self._folder / f"{int(self._clock() * 1000):012x}-{secrets.token_urlsafe(12)}"
            try:
                folder.mkdir(parents=True)
                return Epoch(folder, self._aside)
            except (Held, FileNotFoundError):  # another process looked around just now, and took it for a dead one's
                continue
            except OSError as error:
                raise WrongSetting(f"SPOOL_DIR: {self._folder} cannot be written: {error.strerror}.") from None

    # the writing side

    def append(  # noqa: PLR0917 (the order of the event's own fields)
        self,
        code: str,
        at: datetime,
        user_agent: str | None,
        ip_address: str | None,
        referer: str | None,
        visitor: str | None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> "asyncio.Future[None]":
        """Give the access the next number of the epoch; the future is done once it is in the file.

        All appends of one turn of the event loop are one write and **share one future**: whoever appends often hooks
        on to it once a turn. It is never cancelled and has no exception, but in a strict spool (`is_strict`)
        ChannelUnavailable, and there it may take seconds.
        """
        written = self._written
        if written is None:
            written = self._begin_turn(at)
            written.get_loop().call_soon(self._write_turn)
        seq = self._next_seq
        self._next_seq = seq + 1
        event_id = self._event_id.of(seq)
        self._turn.append(
            encode(
                self.epoch,
                seq,
                event_id,
                code,
                at,
                user_agent,
                ip_address,
                referer,
                visitor,
                request_id,
                traceparent,
            )
        )
        return written

    def append_plain(self, at: datetime, accesses: Sequence[Plain]) -> "asyncio.Future[None]":
        """The same for many accesses of one time, in pieces that are JSON already; all that the turn has had until now
        is written at once. So the future is done when this returns, but that of a strict spool."""
        written = self._written or self._begin_turn(at)
        seq = self._next_seq
        self._next_seq = seq + len(accesses)
        self._turn += encode_plain(self.epoch, seq, self._event_id.start, at, accesses)
        self._write_turn()
        return written

    def _begin_turn(self, at: datetime) -> "_Written":
        self._written = _Written(loop=asyncio.get_running_loop())
        self._turn_began = at.timestamp()
        self._event_id.turn(self._turn_began)
        return self._written

    def _write_turn(self) -> None:
        if self._written is None:
            return
        events, written = self._turn, self._written
        self._turn, self._written = [], None
        self._own.accepted(self._next_seq - 1, int(self._turn_began * 1000))
        frames = framed(events, self._next_seq - len(events), int(self._turn_began * 1000))
        if self._confirmations is not None:
            self._confirmations.wait(written, range(self._next_seq - len(events), self._next_seq))
        try:
            if self._write(frames):
                EVENTS_SPOOLED.inc(len(events))
                self._write_memory()
            else:
                self._keep_in_memory(frames)
                self._try_disk_later()
        finally:
            if self._confirmations is None:
                written.set_result(None)
            self._arrived.set()

    def _write(self, frames: list[Frame]) -> bool:
        if self._is_closed or not frames:
            return not frames
        elsewhere = self._waiting_bytes + self._aside_bytes
        on_disk = elsewhere + self._own.bytes_on_disk + sum([epoch.bytes_on_disk for epoch in self._epochs.values()])
        if on_disk + sum([frame.size for frame in frames]) > self._max_bytes:
            self._complain("over SPOOL_MAX_BYTES")
            return False
        try:
            self._own.append(frames, self._segment_bytes)
        except OSError as error:
            self._complain(error.strerror or "the disk took nothing")
            return False
        return True

    def _keep_in_memory(self, frames: list[Frame]) -> None:
        for frame in frames:
            kept = Batch(self.epoch, frame.first_seq, frame.count, frame.payload, False, self._own.highest_seq)
            if self._is_closed or not self._in_memory.keep(kept):
                self._drop(frame)

    def _write_memory(self) -> None:
        """As much of what waits there as the disk takes."""
        while self._in_memory:
            kept = self._in_memory.first
            if not self._write([Frame(kept.first_seq, kept.count, int(self._clock() * 1000), kept.body)]):
                return
            self._in_memory.forget_first()
            EVENTS_SPOOLED.inc(kept.count)

    def _try_disk_later(self) -> None:
        """Also if nobody appends any more."""
        if self._in_memory and self._disk_timer is None and not self._is_closed:
            self._disk_timer = asyncio.get_running_loop().call_later(_TRY_DISK_SECONDS, self._try_disk)

    def _try_disk(self) -> None:
        self._disk_timer = None
        self._write_memory()
        self._try_disk_later()

    def _drop(self, frame: Frame) -> None:
        EVENTS_UNSPOOLED.inc(frame.count)
        if self._confirmations is not None:
            self._confirmations.lost(range(frame.first_seq, frame.next_seq))

    def _complain(self, why: str) -> None:
        if self._clock() - self._complained > _COMPLAIN_SECONDS:
            self._complained = self._clock()
            LOG.error("spool_full", extra={"why": why})

    @property
    def is_strict(self) -> bool:
        return self._confirmations is not None

    # the sending side

    async def take(self, most: int = 256) -> Batch:
        """The next events that were not taken yet, oldest epoch first; waits until there are some.

        At most `most` events, except where more were written as one frame (never more than 256).
        """
        while True:
            await asyncio.sleep(0)  # who drains a long spool lets others have their turns
            self._arrived.clear()
            batch = self._take(most)
            if batch is not None:
                return batch
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AROUND_SECONDS):
                    await self._arrived.wait()

    def _take(self, most: int) -> Batch | None:
        has_room = len(self._epochs) < _MOST_ADOPTED
        if self._clock() - self._looked_around > _LOOK_AROUND_SECONDS or (self._saw_more and has_room):
            self._look_around()
        if self._in_memory:
            return self._in_memory.take(most, self._own.highest_seq)
        too_old_before_ms = int((self._clock() - _TOO_OLD_SECONDS) * 1000)
        for epoch in self._sending():
            try:
                batch = epoch.take(most, too_old_before_ms)
            except OSError:
                self._leave_alone(epoch)
                continue
            if batch is not None:
                return batch
            self._finish(epoch)
        return None

    def _sending(self) -> list[Epoch]:
        return [*self._epochs.values(), self._own]

    def _leave_alone(self, epoch: Epoch) -> None:
        """The disk does not give it back. Our own goes on being written, and is tried again."""
        LOG.exception("spool_unreadable", extra={"epoch": epoch.name})
        if epoch is not self._own:
            self._left_alone[epoch.name] = self._clock() + _TRY_AGAIN_SECONDS
            self._epochs.pop(epoch.name).let_go()

    def _look_around(self) -> None:
        """Adopt what dead processes left, and see what else lies there."""
        self._looked_around = self._clock()
        self._saw_more = False
        try:
            folders = sorted(self._folder.iterdir())
        except OSError:
            LOG.exception("spool_unreadable", extra={"folder": str(self._folder)})
            return
        self._waiting_bytes, self._aside_bytes = 0, _bytes_in(self._aside)
        for folder in folders:
            if folder.name == self.epoch or folder.name in self._epochs or not EPOCH_NAME.fullmatch(folder.name):
                continue
            is_left_alone = self._left_alone.get(folder.name, 0.0) > self._clock()
            if not is_left_alone and len(self._epochs) < _MOST_ADOPTED:
                self._adopt(folder)
            elif not is_held(folder):
                self._waiting_bytes += _bytes_in(folder)
                self._saw_more |= not is_left_alone

    def _adopt(self, folder: Path) -> None:
        try:
            epoch = Epoch.adopted(folder, self._aside)
        except (Held, FileNotFoundError):
            return  # its process lives, or whoever adopted it has just finished it
        except OtherVersion:
            self._left_alone[folder.name] = math.inf
            LOG.error("spool_of_another_version", extra={"folder": str(folder)})
        except (OSError, ValueError) as error:
            passes = isinstance(error, OSError)  # too many open files, say
            self._left_alone[folder.name] = self._clock() + _TRY_AGAIN_SECONDS if passes else math.inf
            LOG.exception("spool_unreadable", extra={"epoch": folder.name})
        else:
            self._epochs[epoch.name] = epoch
            if not epoch.is_finished:
                EPOCHS_ADOPTED.inc()
                LOG.info("spool_adopted", extra={"epoch": epoch.name, "events": epoch.unsent})
            self._finish(epoch)

    def _finish(self, epoch: Epoch) -> None:
        if epoch is not self._own and epoch.is_finished:
            self._epochs.pop(epoch.name).close()

    def done(self, batch: Batch) -> None:
        """These are kept elsewhere, durably: they may go. In any order."""
        if self._is_closed:
            return  # its folders may be another's by now: sent again, and not counted again
        if self._confirmations is not None and batch.epoch == self.epoch:
            self._confirmations.done(batch)
        if batch.epoch == self.epoch and self._in_memory.done(batch):
            return
        epoch = self._own if batch.epoch == self.epoch else self._epochs.get(batch.epoch)
        if epoch is None:
            return
        epoch.done(batch)
        self._finish(epoch)
        if self._cursor_timer is None:
            self._cursor_timer = asyncio.get_running_loop().call_later(_CURSOR_SECONDS, self._save_cursors)

    def _save_cursors(self) -> None:
        self._cursor_timer = None
        for epoch in self._sending():
            epoch.save_cursor()

    def rewind(self) -> None:
        """Take again from the first that is not done."""
        for epoch in self._sending():
            epoch.rewind()
        self._in_memory.take_back()
        self._try_disk_later()
        self._arrived.set()

    def end_epoch(self) -> None:
        """Nobody appends any more: let the last batch say so, or one of its own where all others are gone.

        A late append is kept all the same, and then it is the last.
        """
        self._write_turn()
        self._own.is_closed = True
        self._arrived.set()

    @property
    def unsent(self) -> int:
        """Events that are not done yet, adopted ones included (of those it is an estimate until they are read).

        The ends of closed epochs are counted too, until somebody has been told of them; what is still to be adopted is
        one more.
        """
        on_disk = sum(epoch.unsent for epoch in self._sending())
        return len(self._turn) + self._in_memory.events + self._saw_more + on_disk

    def set_aside(self, line: bytes) -> None:
        """Keep what no reader of events could read, a line of JSON each, for a person to look at."""
        with (self._folder / "dead-letters.jsonl").open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line + b"\n") <= len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)  # half a line would spoil the next one too
                raise

    def _bytes_left(self) -> int:
        return 0 if self._is_closed else self._waiting_bytes + sum(epoch.bytes_left for epoch in self._sending())

    def _oldest_seconds(self) -> float:
        if self._is_closed:
            return 0.0
        oldest = [ms for epoch in self._sending() if (ms := epoch.oldest_ms) is not None]
        return max(0.0, self._clock() - min(oldest) / 1000) if oldest else 0.0

    def close(self) -> None:
        """Close the epoch. What is not done stays for whoever adopts it."""
        if self._is_closed:
            return
        self._write_turn()
        self._in_memory.take_back()
        self._write_memory()  # the last chance of what no disk had taken
        EVENTS_UNSPOOLED.inc(self._in_memory.events)
        self._in_memory = Memory()
        self._is_closed = True
        for timer in (self._cursor_timer, self._disk_timer):
            if timer is not None:
                timer.cancel()
        for epoch in self._sending():
            epoch.close()


def _bytes_in(folder: Path) -> int:
    """Of its files; 0 if it is not there, or goes while one looks."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0


class _EventIds:
    """Event ids (UUIDv7): the turn's time, 42 random bits of this epoch, and the number."""

    def __init__(self) -> None:
        chance = secrets.token_hex(6)
        self._chance = f"7{chance[:3]}-{secrets.choice('89ab')}{chance[3:6]}-{chance[6:10]}"
        self.start = ""
        """What all ids of this turn begin with."""

    def turn(self, seconds: float) -> None:
        ms = f"{int(seconds * 1000):012x}"
        self.start = f"{ms[:8]}-{ms[8:]}-{self._chance}"

    def of(self, seq: int) -> str:
        return f"{self.start}{seq & 0xFFFFFFFF:08x}"
