"""Metrics of several processes as those of one service.

Counters and histograms are summed, over workers that have ended as well, so that they never go back: of one that was
killed, what it had counted since it was last asked is missing. Of gauges the greatest counts, but for times, of which
the earliest does. What is about a process (`process_…`) is told apart by the label `worker`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Families = list[Any]
"""[name, documentation, type, [[sample, [[label, value], …], number], …]] each; JSON as it stands."""

SUPERVISOR = "supervisor"
"""What the label `worker` is for the process that watches over the others."""
_SUMMED = {"counter", "histogram"}
_Key = tuple[str, tuple[tuple[str, str], ...]]


def families_of(registry: CollectorRegistry) -> Families:
    """What a registry counts."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [[one.name, sorted(one.labels.items()), one.value] for one in family.samples],
        ]
        for family in registry.collect()
    ]


class Totals(Collector):
    """The metrics of all workers, as a collector of the supervisor's registry."""

    def __init__(self, *, without: Iterable[str] = ()) -> None:
        self._without = frozenset(without)
        """Families that the supervisor counts itself."""
        self._now: dict[str, Families] = {}
        """By worker: what it said last."""
        self._ended: dict[str, tuple[str, str, dict[_Key, float]]] = {}
        """By family: its documentation, type, and sums of those that have ended."""

    def heard(self, worker: str, families: Families) -> None:
        """Keep what a worker counts now."""
        self._now[worker] = families

    def ended(self, worker: str) -> None:
        """A worker is no more; what it counted stays."""
        for name, documentation, kind, samples in self._now.pop(worker, []):
            if kind not in _SUMMED or name.startswith("process_"):
                continue
            _, _, sums = self._ended.setdefault(name, (documentation, kind, {}))
            _add(sums, kind, samples)

    def collect(self) -> Iterable[Metric]:
        """Sum up."""
        found = {name: (text, kind, dict(sums)) for name, (text, kind, sums) in self._ended.items()}
        for worker, families in self._now.items():
            for name, documentation, kind, samples in families:
                _, _, sums = found.setdefault(name, (documentation, kind, {}))
                more = [["worker", worker]] if name.startswith("process_") else []
                _add(sums, kind, ([sample, [*labels, *more], value] for sample, labels, value in samples))
        for name, (documentation, kind, sums) in found.items():
            if name in self._without:
                continue
            metric = Metric(name, documentation, kind)
            for (sample, labels), value in sums.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _add(sums: dict[_Key, float], kind: str, samples: Iterable[Any]) -> None:
    for sample, labels, value in samples:
        key = (str(sample), tuple((str(name), str(text)) for name, text in labels))
        before = sums.get(key)
        if before is None:
            sums[key] = value
        elif str(sample).endswith(("_created", "_timestamp_seconds")):
            sums[key] = min(before, value)
        elif kind in _SUMMED:
            sums[key] = before + value
        else:
            sums[key] = max(before, value)


def of_process(families: Families, worker: str) -> Mapping[str, Families]:
    """Only what is about the process itself, as `Totals.heard` takes it."""
    return {worker: [family for family in families if family[0].startswith("process_")]}
