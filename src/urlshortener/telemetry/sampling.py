"""Which requests are looked at more closely than others."""

import math
import random
from collections.abc import Callable


class Sampling:
    """Draws a share of the requests: a countdown to the next one, so that each of the others costs a subtraction."""

    def __init__(self, ratio: float, chance: Callable[[], float] = random.random) -> None:
        self._ratio = ratio
        self._chance = chance
        self._left = self._gap()

    def drawn(self) -> bool:
        """Whether this one is among them."""
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


def could_be_sampled(traceparent: bytes) -> bool:
    """Whether the header asks for a trace; False for one that says that there is none."""
    return not traceparent.endswith(b"-00")
