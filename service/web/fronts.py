"""The front of accuracy, median latency and size per label set, from benchmarks or from recorded latency."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.evidence import Measured
from service.bench.recommend.pareto import Candidate, Dominated, faster_by_intervals, front
from service.bench.report.chart import Chart, draw, shared_prefix
from service.bench.report.document import AccuracyFigure, Front, FrontModel
from service.latency.histogram import Distribution
from service.web.catalogue import Accuracies, Labels

Source = Literal["benchmarks", "recorded"]

_UNKNOWN = "its accuracy is unknown"
_OTHER_PICTURES = "its accuracy is of other pictures"

_MOST_LETTERS = 16
"""Letters of a name that the table's last column has room for."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A model's recorded latency, as the front compares it."""

    name: str
    bytes: int
    accuracy: AccuracyEstimate | None
    median_ns: int
    interval_ns: tuple[int, int] | tuple[None, None]

    def faster_than(self, other: Recorded) -> str | None:
        """Return in words how much faster this model is than `other`.

        The result is None if the intervals of the two medians do not show that this model is faster.
        """
        return faster_by_intervals(self.interval_ns, other.interval_ns)


@dataclass(frozen=True, slots=True)
class Behind:
    """Another model that is better by every estimate, though this is not proven.

    `by`: name of this better model. `reason`: the figures of both models, in words.
    """

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class GroupFront:
    """The front of one label set.

    `source`: where the latencies are from. `on_front`: the models on the front. `dominated`: the dominated
    models. `behind`: models on the front that another model beats by every estimate, although this is not
    proven. `absent`: the models that are not compared, each with the reason. `chart`: the chart of the front,
    or None if fewer than two models have a known accuracy. `machine`: the machine of the benchmarks, in
    words, if the latencies are from benchmarks.
    """

    source: Source
    on_front: frozenset[str]
    dominated: Mapping[str, Dominated]
    behind: Mapping[str, Behind]
    absent: Mapping[str, str]
    chart: Chart | None
    machine: str

    @property
    def needs_accuracy(self) -> bool:
        """Whether any model is not compared because of its accuracy."""
        return any(reason in (_UNKNOWN, _OTHER_PICTURES) for reason in self.absent.values())


def front_of(
    labels: Labels,
    facts: Sequence[ModelFacts],
    accuracies: Accuracies,
    recorded: Mapping[str, Distribution],
    measured: Mapping[str, Measured],
    machine: str = "this machine",
) -> GroupFront:
    """Return a label set's front.

    The latencies are from benchmarks if at least two models have a benchmark. Otherwise, they are recorded
    latencies. `facts`: the models with runs or benchmarks. `recorded`: distributions by model. Only models
    whose accuracies are of the same pictures are compared. `machine`: machine of the benchmarks, in words.
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
        absent = _absent(facts, measured, f"no benchmark on {machine} yet", accuracies)
        return _group("benchmarks", labels, models, [each.name for each in best], dominated, absent, machine)
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
    absent = _absent(facts, recorded, "no runs of this stage", accuracies)
    return _group("recorded", labels, models, [each.name for each in live_best], dominated, absent, machine)


def _absent(
    facts: Sequence[ModelFacts], timed: Collection[str], untimed: str, accuracies: Accuracies
) -> dict[str, str]:
    """Return the models that are not compared, each with the reason.

    `untimed`: the reason for models that are not in `timed`.
    """
    reasons = {}
    for each in facts:
        if each.name not in timed:
            reasons[each.name] = untimed
        elif each.name not in accuracies.by_model:
            reasons[each.name] = _UNKNOWN
        elif each.name not in accuracies.compared:
            reasons[each.name] = _OTHER_PICTURES
    return reasons


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
    absent: Mapping[str, str],
    machine: str,
) -> GroupFront:
    known = {each.entry for each in models if each.accuracy is not None}
    beaten = {each.model: each for each in dominated}
    chart = _draw(Front(task=labels[0], labels=labels[1], models=tuple(models))) if len(known) > 1 else None
    return GroupFront(source, frozenset(best) & known, beaten, _behind(models), absent, chart, machine)


def _behind(models: Sequence[FrontModel]) -> dict[str, Behind]:
    """Return the models on the front that another model beats, if the estimates are taken as exact.

    The other model is faster, more accurate, and not larger. If several models beat the same model, the
    fastest of them is named; it is itself not beaten by any model.
    """
    known = [(each, each.accuracy.value) for each in models if each.accuracy is not None]
    known.sort(key=lambda item: (item[0].p50_ms, item[0].entry))
    found = {}
    for mine, accuracy in known:
        if not mine.on_front:
            continue
        for theirs, higher in known:
            if theirs.p50_ms < mine.p50_ms and higher > accuracy and theirs.bytes <= mine.bytes:
                found[mine.entry] = Behind(
                    theirs.entry,
                    f"by the estimates, '{theirs.entry}' is more accurate ({higher:.1%} against "
                    f"{accuracy:.1%}), faster (median {theirs.p50_ms:.3g} ms against {mine.p50_ms:.3g} ms), "
                    f"and not larger ({theirs.bytes / 1e6:.3g} MB against {mine.bytes / 1e6:.3g} MB); "
                    "not proven",
                )
                break
    return found


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return a short name for each full name: the name without the beginning that all names share.

    If the rest does not fit into the column, it is cut to one of its endings. An ending can be used if it
    begins after a hyphen and no other name ends with it. The longest of these that fits is used, or the
    shortest if none fits. A name without such an ending is not cut.
    """
    prefix = shared_prefix(names)
    short = {}
    for name in names:
        rest = name.removeprefix(prefix)
        if len(rest) > _MOST_LETTERS:
            parts = rest.split("-")
            ends = ["-".join(parts[index:]) for index in range(len(parts) - 1, 0, -1)]
            unique = [end for end in ends if sum(f"-{each}".endswith(f"-{end}") for each in names) == 1]
            fitting = [end for end in unique if len(end) < _MOST_LETTERS]
            rest = "…" + (fitting[-1] if fitting else unique[0]) if unique else rest
        short[name] = rest
    return short


_draw = lru_cache(64)(draw)
