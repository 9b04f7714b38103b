"""Which process runs on which core: pinned, so that what is measured has a core of its own and the load has another."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

SERVICE = 0  # what is measured
LOAD = 1  # the load, and every back end that the question does not count


def enough() -> bool:
    """Whether this machine has both cores, and lets us use them."""
    return {SERVICE, LOAD} <= os.sched_getaffinity(0)


class Places(NamedTuple):
    """Cores for a service of several processes, for a proxy in front of it, and for the load."""

    service: tuple[int, ...]
    proxy: tuple[int, ...]
    load: tuple[int, ...]


def shared_out() -> Places:
    """Of four cores or more the load has one, proxy and service half of the others each; of fewer all have all."""
    everywhere = tuple(sorted(os.sched_getaffinity(0)))
    if len(everywhere) < 4:
        return Places(everywhere, everywhere, everywhere)
    others = tuple(core for core in everywhere if core != LOAD)
    half = len(others) // 2
    return Places(others[half:], others[:half], (LOAD,))


@contextlib.contextmanager
def on(*cores: int) -> Iterator[None]:
    """What is started within runs on these cores, and so do all of its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
