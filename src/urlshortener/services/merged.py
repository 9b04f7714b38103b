"""The numbers of several worker processes as those of one service.

Each worker hands over its samples (`handed_over`); here they become one registry that renders as any other. Counters
and histograms add up, those of workers that are gone included, so that no counter ever goes back. A gauge is what its
meaning asks for (OF_GAUGES): bytes add up, of ages the oldest counts, of "1 while …" whether it is so everywhere.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar, Sample

from urlshortener.telemetry import REGISTRY

Labels = tuple[tuple[str, str], ...]


HandedExemplar = tuple[Labels, float, float]  # its trace, its value, and when it was seen


class HandedSample(msgspec.Struct, frozen=True, array_like=True):
    """One number, its labels, and the trace that it is an example of."""

    name: str
    labels: Labels
    value: float
    exemplar: HandedExemplar | None


class HandedMetric(msgspec.Struct, frozen=True, array_like=True):
    """All samples of one metric of one worker."""

    name: str
    meaning: str
    type: str
    samples: list[HandedSample]


def handed_over() -> list[HandedMetric]:
    """What this process has counted so far."""
    return [
        HandedMetric(metric.name, metric.documentation, metric.type, [_handed(sample) for sample in metric.samples])
        for metric in REGISTRY.collect()
    ]


def _handed(sample: Sample) -> HandedSample:
    shown = sample.exemplar
    exemplar = shown and (tuple(shown.labels.items()), shown.value, float(shown.timestamp or 0))
    return HandedSample(sample.name, tuple(sample.labels.items()), sample.value, exemplar)


# What the values that several workers have of a gauge are together. tests/services/test_workers.py: none is left out.
_SUM = operator.add
_EVERYWHERE = min  # "1 while …", and it has to be so everywhere
_SOMEWHERE = _MOST = max
OF_GAUGES: Mapping[str, Callable[[float, float], float]] = {
    "service_ready": _EVERYWHERE,
    "workers": _SUM,
    "link_cache_bytes": _SUM,
    "link_cache_links": _SUM,
    "link_listener_connected": _EVERYWHERE,
    "database_connections_used": _SUM,
    "database_connections_most": _SUM,
    "spool_bytes": _SUM,
    "spool_oldest_event_age_seconds": _MOST,
    "event_messages_unconfirmed": _SUM,
    "broker_connected": _EVERYWHERE,
    "broker_blocked": _SOMEWHERE,
    "events_missing": _MOST,  # all read it from the same counts
    "stats_available": _EVERYWHERE,
}


class MergedNumbers(CollectorRegistry):
    """The last numbers of every worker, and what workers that are gone had counted."""

    def __init__(self, own: Iterable[Collector] = ()) -> None:
        super().__init__()
        self._own = list(own)
        self._of_the_gone: list[HandedMetric] = []
        self._living: dict[int, list[HandedMetric]] = {}

    def came(self, worker: int, numbers: list[HandedMetric]) -> None:
        self._living[worker] = numbers

    def gone(self, worker: int) -> None:
        """It will count nothing any more, and what it had counted stays."""
        counted = [metric for metric in self._living.pop(worker, []) if metric.type != "gauge"]
        self._of_the_gone = list(_merged([self._of_the_gone, counted]).values())

    def collect(self) -> Iterator[Metric]:
        own = {metric.name: metric for collector in self._own for metric in collector.collect()}
        yield from own.values()
        for name, merged in _merged([self._of_the_gone, *self._living.values()]).items():
            if name not in own:
                metric = Metric(name, merged.meaning, merged.type)
                for sample in merged.samples:
                    metric.samples.append(
                        Sample(sample.name, dict(sample.labels), sample.value, None, _exemplar(sample))
                    )
                yield metric


def _merged(workers: Sequence[list[HandedMetric]]) -> dict[str, HandedMetric]:
    merged: dict[str, HandedMetric] = {}
    samples: dict[str, dict[tuple[str, Labels], HandedSample]] = {}
    for metric in (metric for worker in workers for metric in worker):
        merged.setdefault(metric.name, metric)
        together = OF_GAUGES[metric.name] if metric.type == "gauge" else _SUM
        known = samples.setdefault(metric.name, {})
        for sample in metric.samples:
            if (before := known.get(key := (sample.name, sample.labels))) is None:
                known[key] = sample
            else:
                how = min if sample.name.endswith("_created") else together
                known[key] = HandedSample(
                    sample.name, sample.labels, how(before.value, sample.value), _newer(before, sample)
                )
    return {
        name: HandedMetric(name, metric.meaning, metric.type, list(samples[name].values()))
        for name, metric in merged.items()
    }


def _newer(one: HandedSample, other: HandedSample) -> HandedExemplar | None:
    found = [exemplar for exemplar in (one.exemplar, other.exemplar) if exemplar]
    return max(found, key=lambda exemplar: exemplar[2], default=None)


def _exemplar(sample: HandedSample) -> Exemplar | None:
    return Exemplar(dict(sample.exemplar[0]), *sample.exemplar[1:]) if sample.exemplar else None
