"""`SPOOL_MODE=strict`: a visitor waits until somebody else has his event too, so that no lost disk can lose it."""

import asyncio
from collections.abc import Sequence

from urlshortener.errors import ChannelUnavailable
from urlshortener.events.epoch import Batch

LIMIT_SECONDS = 5.0  # a quorum that elects a leader is back within seconds; a visitor has left by then


class Confirmations:
    """The turns whose events are not confirmed yet, and who waits for them.

    A wait ends with the confirm of the last event of its turn, or after `LIMIT_SECONDS` with ChannelUnavailable. The
    events stay in the spool all the same and are sent later: a visitor who was refused may be counted, one who was
    redirected always is.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], set[int]] = {}

    def wait(self, turn: "asyncio.Future[None]", numbers: Sequence[int]) -> None:
        self._waiting[turn] = set(numbers)
        turn.add_done_callback(self._forget)
        asyncio.get_running_loop().call_later(LIMIT_SECONDS, self._give_up, turn)

    def done(self, batch: Batch) -> None:
        """These are kept elsewhere. In any order, and perhaps more than once."""
        numbers = range(batch.first_seq, batch.first_seq + batch.count)
        for turn, missing in list(self._waiting.items()):
            missing.difference_update(numbers)
            if not missing and not turn.done():
                turn.set_result(None)

    def lost(self, numbers: Sequence[int]) -> None:
        """Neither disk nor memory took them: whoever waits for one is told at once."""
        for turn, missing in list(self._waiting.items()):
            if not missing.isdisjoint(numbers):
                self._give_up(turn)

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        if not turn.done():
            turn.set_exception(ChannelUnavailable("Visits cannot be counted at the moment."))

    def _forget(self, turn: "asyncio.Future[None]") -> None:
        self._waiting.pop(turn, None)
        turn.exception()  # perhaps all who waited for it have left
