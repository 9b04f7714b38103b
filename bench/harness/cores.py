"""Which process runs on which core: pinned, so that what is measured has a core of its own and the load has another."""

import contextlib
import os
from collections.abc import Iterator

SERVICE = 0  # what is measured
LOAD = 1  # the load, and every back end that the question does not count


def enough() -> bool:
    """Whether this machine has both cores, and lets us use them."""
    return {SERVICE, LOAD} <= os.sched_getaffinity(0)


@contextlib.contextmanager
def on(*cores: int) -> Iterator[None]:
    """What is started within runs on these cores, and so do all of its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
