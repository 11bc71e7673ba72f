"""The front of accuracy, median latency and size per label set, from benchmarks or from recorded latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.evidence import Measured
from service.bench.recommend.pareto import Candidate, Dominated, faster_by_intervals, front
from service.latency.histogram import Distribution
from service.report.chart import Chart, draw
from service.report.document import AccuracyFigure, Front, FrontModel
from service.web.catalogue import Accuracies, Labels

Source = Literal["benchmarks", "recorded"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A model's recorded latency, as the front compares it."""

    name: str
    bytes: int
    accuracy: AccuracyEstimate | None
    median_ns: int
    interval_ns: tuple[int, int] | tuple[None, None]

    def faster_than(self, other: Recorded) -> str | None:
        """Return how much faster it is than `other`, in words; None unless their intervals are apart."""
        return faster_by_intervals(self.interval_ns, other.interval_ns)


@dataclass(frozen=True, slots=True)
class GroupFront:
    """The front of one label set: where its latencies are from, who is dominated, and the chart, if any."""

    source: Source
    on_front: frozenset[str]
    dominated: Mapping[str, Dominated]
    chart: Chart | None


def front_of(
    labels: Labels,
    facts: Sequence[ModelFacts],
    accuracies: Accuracies,
    recorded: Mapping[str, Distribution],
    measured: Mapping[str, Measured],
) -> GroupFront:
    """Return the front of a label set: of its benchmarks, if at least two models have one, else as recorded.

    `recorded`: distributions by model. Only models whose accuracies are of the same pictures are compared.
    """
    benchmarked = [each for each in facts if each.name in measured]

    def accuracy(name: str) -> AccuracyEstimate | None:
        return accuracies.by_model.get(name) if name in accuracies.compared else None

    if len(benchmarked) > 1:
        candidates = [Candidate(measured[each.name], accuracy(each.name)) for each in benchmarked]
        best, dominated = front(candidates)
        models = [
            _front_model(each, dominated, each.measured.p50_ms, each.measured.median_interval_ns)
            for each in candidates
        ]
        return _group("benchmarks", labels, models, [each.name for each in best], dominated)
    contenders = [
        Recorded(
            each.name,
            each.bytes,
            accuracy(each.name),
            recorded[each.name].percentiles_ns()[0],
            recorded[each.name].median_interval_ns(),
        )
        for each in facts
        if each.name in recorded
    ]
    live_best, dominated = front(contenders)
    models = [_front_model(each, dominated, each.median_ns / 1e6, each.interval_ns) for each in contenders]
    return _group("recorded", labels, models, [each.name for each in live_best], dominated)


def _front_model(
    model: Candidate | Recorded,
    dominated: Sequence[Dominated],
    p50_ms: float,
    interval_ns: tuple[float, float] | tuple[None, None],
) -> FrontModel:
    by = next((each for each in dominated if each.model == model.name), None)
    low, high = interval_ns
    return FrontModel(
        entry=model.name,
        accuracy=None
        if model.accuracy is None
        else AccuracyFigure(
            value=model.accuracy.value,
            low=model.accuracy.low,
            high=model.accuracy.high,
            kind=model.accuracy.kind,
            how=model.accuracy.how,
        ),
        p50_ms=_rounded(p50_ms),
        p50_low_ms=None if low is None else _rounded(low / 1e6),
        p50_high_ms=None if high is None else _rounded(high / 1e6),
        bytes=model.bytes,
        on_front=None if model.accuracy is None else by is None,
        dominated_by=None if by is None else by.by,
        reason=None if by is None else by.reason,
    )


def _rounded(ms: float) -> float:
    """Round to three significant digits, so that a chart of steady traffic is laid out only once."""
    return float(f"{ms:.3g}")


def _group(
    source: Source,
    labels: Labels,
    models: Sequence[FrontModel],
    best: Sequence[str],
    dominated: Sequence[Dominated],
) -> GroupFront:
    known = {each.entry for each in models if each.accuracy is not None}
    chart = _draw(Front(task=labels[0], labels=labels[1], models=tuple(models))) if len(known) > 1 else None
    return GroupFront(source, frozenset(best) & known, {each.model: each for each in dominated}, chart)


_draw = lru_cache(64)(draw)
