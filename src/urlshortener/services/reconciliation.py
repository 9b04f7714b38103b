"""`urlshortener reconcile`: what the shorteners numbered and nobody counted."""

from collections.abc import Sequence
from datetime import timedelta

from urlshortener.services import backends
from urlshortener.settings import Settings
from urlshortener.stats.store import Drift


async def reconciled(settings: Settings, older_than: timedelta) -> tuple[str, int]:
    """The answer in words, and the exit code: 0 when nothing is missing."""
    if backends.has_no_counts_yet(settings):
        return in_words([], older_than), 0
    stats = backends.open_stats(settings)
    try:
        drifts = await stats.drift(older_than)
    finally:
        await stats.close()
    return in_words(drifts, older_than), 1 if drifts else 0


def in_words(drifts: Sequence[Drift], older_than: timedelta) -> str:
    age = f"{older_than.total_seconds():g} s ago"
    if not drifts:
        return f"Nothing is missing: every access that was known {age} is counted."
    lines = [
        f"  {drift.host}  {drift.hour:%Y-%m-%d %H}:00 UTC  {drift.missing} missing  (epoch {drift.epoch})"
        for drift in sorted(drifts, key=lambda drift: (drift.hour, drift.host))
    ]
    total = sum(drift.missing for drift in drifts)
    return "\n".join(
        [f"{total} accesses that were known {age} are not counted, by shortener and hour:", *lines, _WHAT_TO_DO]
    )


_WHAT_TO_DO = (
    "They wait in a queue, a spool or the dead letters, or are lost: docs/operations.md, Counts that are missing."
)
