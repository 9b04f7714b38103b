"""What a histogram of a service's metrics has seen between two looks."""

from collections.abc import Mapping

from bench.harness.system import Lost


def seen(before: Mapping[str, float], after: Mapping[str, float], name: str) -> dict[float, float]:
    """How many values were at most so large, for each bound, in order; the last is infinite and holds them all."""
    prefix = f"{name}_bucket{{"
    counts = {
        float(sample.split('le="')[1].split('"')[0]): value - before.get(sample, 0)
        for sample, value in after.items()
        if sample.startswith(prefix)
    }
    if not counts or not counts[max(counts)]:
        raise Lost(f"{name} has seen nothing")
    return dict(sorted(counts.items()))


def between(counts: Mapping[float, float], share: float) -> float:
    """What that share of them stayed below, where those between two bounds are taken for even."""
    wanted = share * max(counts.values())
    below, lower = 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted and count > below:
            return lower + (bound - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    raise AssertionError


def at_most(counts: Mapping[float, float], share: float) -> float:
    """The bound that that share of them did not exceed: no guess, but as coarse as the bounds are."""
    wanted = share * max(counts.values())
    return next(bound for bound, count in counts.items() if count >= wanted)
