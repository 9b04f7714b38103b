"""What a fault did to visitors, in numbers and in curves: from the history and the samples beside it."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from drill.history import KNOWN, REDIRECTS, History, Request, Stream
from drill.http_client import CLOSED_UNHEARD
from drill.sampler import Sample

STALE_SECONDS = 1.0  # a count is fresh when nothing older is missing in it
_AFTER_SECONDS = 30.0
_BIN_SECONDS = 0.25


@dataclass(frozen=True)
class Struck:
    """A fault and its times: when it began, when the harm was over, and when all was whole again."""

    fault: str
    role: str
    whom: str
    began_ns: int
    over_ns: int
    whole_ns: int
    replaced_seconds: float | None = None  # a primary, by another: how long after it began


def figures(
    history: History, samples: Sequence[Sample], struck: Struck, before_ns: int, until_ns: int
) -> dict[str, Any]:
    """Of one fault: from its beginning until the next one, beside the quiet time before it."""
    began = struck.began_ns
    within = _Window(history, began, until_ns)
    quiet = _Window(history, before_ns, began)
    ages = [(at, age) for at, age in freshness(history) if began <= at < until_ns]
    sampled = [sample for sample in samples if began <= sample.at_ns < until_ns]
    stale = [at for at, age in ages if age is None or age > STALE_SECONDS]
    return {
        "redirects": within.answers(*KNOWN),
        "redirect_gap_seconds": within.gap_by_schedule(*KNOWN),
        "redirect_ms": _percentiles(within.until(began + int(_AFTER_SECONDS * 1e9)).latencies(*KNOWN)),
        "redirect_ms_before": _percentiles(quiet.latencies(*KNOWN)),
        "cold": within.answers(Stream.COLD),
        "cold_ms": _percentiles(within.latencies(Stream.COLD, everything=True)),
        "creates": within.answers(Stream.CREATE),
        "create_gap_seconds": within.gap_of_answers(Stream.CREATE),
        "replaced_seconds": struck.replaced_seconds,
        "counts": within.answers(Stream.COUNT),
        "count_stale_seconds": max((age for _, age in ages if age is not None), default=0.0),
        "fresh_after_seconds": (max(stale) - began) / 1e9 if stale else 0.0,
        "queue_peak": max((sample.queue or 0 for sample in sampled), default=0),
        "spool_peak_bytes": max((sample.spool_bytes for sample in sampled), default=0),
        "busy_most": max((sample.busy for sample in sampled), default=0.0),
    }


def curves(
    history: History, samples: Sequence[Sample], struck: Struck, before_ns: int, until_ns: int
) -> dict[str, Any]:
    """The same time, in bins; seconds count from the fault."""
    size = int(_BIN_SECONDS * 1e9)
    bins = max(1, (until_ns - before_ns) // size)
    ok, failed = [0] * bins, [0] * bins
    latencies: list[list[int]] = [[] for _ in range(bins)]
    for request in history.of(*KNOWN):
        place = (request.scheduled_ns - before_ns) // size
        if 0 <= place < bins:
            (ok if request.is_ok else failed)[place] += 1
            if request.is_ok:
                latencies[place].append(request.latency_ns)
    ages = [((at - struck.began_ns) / 1e9, age) for at, age in freshness(history) if before_ns <= at < until_ns]
    return {
        "from_seconds": (before_ns - struck.began_ns) / 1e9,
        "bin_seconds": _BIN_SECONDS,
        "ok": ok,
        "failed": failed,
        "p50_ms": [_percentile(of_bin, 0.5) for of_bin in latencies],
        "p99_ms": [_percentile(of_bin, 0.99) for of_bin in latencies],
        "age": [
            (round(at, 2), None if age is None else round(age, 2)) for at, age in ages[:: max(1, len(ages) // 300)]
        ],
        "waiting": [
            (round((sample.at_ns - struck.began_ns) / 1e9, 1), sample.queue, int(sample.spool_bytes))
            for sample in samples
            if before_ns <= sample.at_ns < until_ns
        ],
    }


def freshness(history: History) -> list[tuple[int, float | None]]:
    """When the beat's count was looked at, and how old the oldest visit was that was not in it; None: no answer."""
    visits = sorted(request.ended_ns for request in history.of(Stream.BEAT) if request.is_ok)
    beat = next((request.what for request in history.of(Stream.BEAT)), "")
    ages: list[tuple[int, float | None]] = []
    for look in history.of(Stream.COUNT):
        if look.what != beat or not look.ended_ns:
            continue
        if not look.is_ok:
            ages.append((look.ended_ns, None))
            continue
        count = int(look.detail)
        missing = visits[count] if count < bisect_left(visits, look.sent_ns) else look.sent_ns
        ages.append((look.ended_ns, (look.sent_ns - missing) / 1e9))
    ages.sort()
    return ages


class _Window:
    """The requests that were scheduled in a stretch of time."""

    def __init__(self, history: History, from_ns: int, until_ns: int) -> None:
        self._history, self._from, self._until = history, from_ns, until_ns

    def until(self, until_ns: int) -> "_Window":
        return _Window(self._history, self._from, min(self._until, until_ns))

    def _requests(self, streams: Iterable[Stream]) -> list[Request]:
        return [r for r in self._history.of(*streams) if self._from <= r.scheduled_ns < self._until]

    def answers(self, *streams: Stream) -> dict[str, int]:
        """How many visitors there were, and how it ended for those who were not answered as they should be."""
        requests = [r for r in self._requests(streams) if r.detail != CLOSED_UNHEARD or r.stream not in REDIRECTS]
        return {"asked": len(requests), **Counter(r.detail for r in requests if not r.is_ok)}

    def latencies(self, *streams: Stream, everything: bool = False) -> list[int]:
        return [r.latency_ns for r in self._requests(streams) if r.ended_ns and (everything or r.is_ok)]

    def gap_by_schedule(self, *streams: Stream) -> float:
        """The longest time in which nobody came who was answered."""
        return _gap(sorted(r.scheduled_ns for r in self._requests(streams) if r.is_ok))

    def gap_of_answers(self, *streams: Stream) -> float:
        """The longest time without a right answer. One that lasts longer than the window belongs to what comes next."""
        ended = sorted(r.ended_ns for r in self._history.of(*streams) if r.is_ok)
        return _gap(ended[max(0, bisect_left(ended, self._from) - 1) : bisect_right(ended, self._until)])


def _gap(times: Sequence[int]) -> float:
    return max((after - before for before, after in pairwise(times)), default=0) / 1e9


def _percentile(values: Sequence[int], share: float) -> float | None:
    ranked = sorted(values)
    return round(ranked[int(share * (len(ranked) - 1))] / 1e6, 2) if ranked else None


def _percentiles(values: Sequence[int]) -> dict[str, float | None]:
    return {
        name: _percentile(values, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))
    }
