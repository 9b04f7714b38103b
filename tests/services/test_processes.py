"""What every process does beside its work."""

import asyncio
import time

from urlshortener.services.processes import _watch_loop
from urlshortener.telemetry import REGISTRY


def _late(at_most: str) -> float:
    """How often the loop was that late, or less."""
    return REGISTRY.get_sample_value("event_loop_delay_seconds_bucket", {"le": at_most}) or 0


async def test_a_loop_that_stands_still_is_seen_to_be_late() -> None:
    watching = asyncio.create_task(_watch_loop())
    await asyncio.sleep(0)  # now it waits for a tenth of a second
    before = _late("+Inf"), _late("0.1")
    time.sleep(0.25)
    await asyncio.sleep(0.01)
    watching.cancel()
    assert (_late("+Inf"), _late("0.1")) == (before[0] + 1, before[1])
