"""Which requests are looked at more closely than others: traced, or written to the access log."""

import math
import random
from collections.abc import Callable


class Sampling:
    """Draws a share of the requests: a countdown to the next one, so that each of the others costs a subtraction.

    For the access log the fast way of a redirect (services/fast_redirect.py) asks first, and hands over those that it
    drew to the ordinary way, which writes it. There `drawn` says so again, so that nobody is drawn twice.
    """

    def __init__(self, ratio: float, chance: Callable[[], float] = random.random) -> None:
        self._ratio = ratio
        self._chance = chance
        self._left = self._gap()
        self._handed_over = 0

    def drawn(self) -> bool:
        """Whether this one is among them."""
        if self._handed_over:
            self._handed_over -= 1
            return True
        return self._is_next()

    def drawn_early(self) -> bool:
        """The same, for whoever hands over those that are."""
        if self._is_next():
            self._handed_over += 1
            return True
        return False

    def _is_next(self) -> bool:
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self._gap()
        return True

    def _gap(self) -> float:
        """How many requests until the next that is drawn, itself included; as if each were drawn by chance."""
        if self._ratio <= 0:
            return math.inf
        if self._ratio >= 1:
            return 1
        return 1 + math.floor(math.log(1 - self._chance()) / math.log(1 - self._ratio))
