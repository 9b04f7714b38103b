"""Waiting for a condition with a limit, so that no test sleeps for luck."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, within_seconds: float, every_seconds: float = 0.02) -> None:
    """Return as soon as the condition holds; AssertionError, which says what was waited for, when it never does.

    Blocks. In an event loop: `await asyncio.to_thread(wait_until, …)`.
    """
    end = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {within_seconds} s")
        time.sleep(every_seconds)
