"""Recommend a model: compare benchmarks with bounds, rank the models that fit, and say why others do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from models.zoo.card import Task
from models.zoo.statistics import CONFIDENCE, MIN_SAMPLES
from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate, estimate_accuracy
from service.bench.recommend.evaluated import (
    Alternative,
    elsewhere,
    estimate_on,
    evaluate_command,
    labels_of,
    origin,
    similar,
)
from service.bench.recommend.evidence import Evidence, Measured
from service.bench.recommend.pareto import Candidate, Dominated, faster_words, front
from service.errors import InvalidParameter
from service.evaluation.result import Evaluation
from service.inference.runtimes.base import RUNTIMES, RuntimeName
from service.inference.runtimes.choice import Serving

_SIGNIFICANT_MS = 3


@dataclass(frozen=True)
class Constraints:
    """Constraints are the bounds within which a model must be. A bound that is None does not apply.

    Raises InvalidParameter for invalid values.
    """

    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    max_bytes: int | None = None
    min_accuracy: float | None = None
    labels: str | None = None
    task: Task = "image-classification"

    def __post_init__(self) -> None:
        for name in ("p50_ms", "p90_ms", "p99_ms", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidParameter(f"{name} {value}: out of range (allowed: above 0, finite)")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise InvalidParameter(
                f"min_accuracy {self.min_accuracy}: out of range (allowed: 0 to 1, 0.7 for 70 %)"
            )

    @property
    def latency_bounds(self) -> list[tuple[float, float]]:
        """The bounds on latency, the highest percentile first.

        A bound is a pair of the percentile as a fraction, such as 0.99, and of milliseconds.
        """
        bounds = ((0.99, self.p99_ms), (0.90, self.p90_ms), (0.50, self.p50_ms))
        return [(fraction, limit) for fraction, limit in bounds if limit is not None]


@dataclass(frozen=True)
class Fit:
    """A model within all bounds.

    `confidence` is the confidence, 0 to 1, that its latency is within the bounds. It is None if there are no
    bounds on latency, or if the model was not measured.
    """

    facts: ModelFacts
    accuracy: AccuracyEstimate | None
    measured: Measured | None
    confidence: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Rejected:
    """A model that does not fit. `reason` has all reasons."""

    model: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A recommendation with its reasons.

    `why` is the reason for `recommended`, or why no model fits. `accuracy_of` describes the pictures on which
    the accuracies were measured. `measured` has all models with a usable benchmark. `run` is the command that
    measures the models that lack a benchmark. `evaluate` is the command that evaluates the models that the
    evaluation lacks.
    """

    recommended: str | None
    why: str
    accuracy_of: str
    labels: str
    task: Task
    fits: tuple[Fit, ...]
    measured: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    run: str | None
    evaluate: str | None

    @property
    def pareto(self) -> tuple[Candidate, ...]:
        """The models of `measured` that no model dominates."""
        return self._front[0]

    @property
    def dominated(self) -> tuple[Dominated, ...]:
        """The models of `measured` that another model dominates."""
        return self._front[1]

    @cached_property
    def _front(self) -> tuple[tuple[Candidate, ...], tuple[Dominated, ...]]:
        """The front and the dominated models. They are computed only on demand, because this takes long."""
        best, dominated = front(self.measured)
        return tuple(best), tuple(dominated)


def recommend(
    constraints: Constraints,
    models: Iterable[ModelFacts],
    evidence: Evidence,
    default_labels: str,
    broken: Mapping[str, str] | None = None,
    evaluation: Evaluation | None = None,
    *,
    servings: Mapping[str, Serving] = MappingProxyType({}),
    unknown_accuracies: Mapping[str, str] = MappingProxyType({}),
    machine: str | None = None,
) -> Recommendation:
    """Recommend the best of `models` within `constraints`.

    `broken` says why models are not served, by name. `servings` has the runtime in which the service runs
    each model; by default, this is ONNX Runtime. `unknown_accuracies` says why the accuracy of a model in the
    service is unknown, by name. `machine` is the name of the kind of machine that the evidence is from; None
    means this machine.

    Only models of one task and one label set are compared, by default `default_labels`, because accuracies on
    different label sets are not comparable. With an `evaluation`, which must be of the same task, accuracies
    are those on its pictures, and only evaluated models fit. Raises InvalidParameter for a label set that no
    model of the task has, or that no evaluated model has.
    """
    known = {facts.name: facts for facts in models}
    labels = _labels(constraints, known.values(), default_labels, evaluation)
    fits: list[Fit] = []
    rejected = [Rejected(name, f"cannot be served: {reason}") for name, reason in (broken or {}).items()]
    unmeasured: list[str] = []
    unevaluated: list[str] = []
    comparable: list[Candidate] = []
    where = "here" if machine is None else f"on {machine}"
    runtimes = {name: serving.runtime for name, serving in servings.items()}

    def run_of(model: str) -> str:
        return f"run `{command([model], runtimes)}`" + ("" if machine is None else " there")

    for facts in known.values():
        if facts.task != constraints.task:
            rejected.append(Rejected(facts.name, f"task {facts.task}, not {constraints.task}"))
            continue
        if facts.labels != labels:
            rejected.append(Rejected(facts.name, f"labels {facts.labels}, not {labels}"))
            continue
        estimate = estimate_accuracy(facts) if evaluation is None else estimate_on(evaluation, facts)
        accuracy = None if isinstance(estimate, str) else estimate
        measured = evidence.best(facts.name, _highest(constraints))
        if measured is not None:
            comparable.append(Candidate(measured, accuracy))
        reasons = _size(constraints, facts)
        if not isinstance(estimate, str):
            reasons += _accuracy(constraints, estimate, unknown_accuracies.get(facts.name))
        latency, missing = _latency(constraints, facts.name, measured, evidence, where, run_of(facts.name))
        if missing and not reasons:
            unmeasured.append(facts.name)
        if isinstance(estimate, str):
            if not reasons and (missing or not latency):
                unevaluated.append(facts.name)
            reasons.append(estimate)
        reasons += latency
        if reasons:
            rejected.append(Rejected(facts.name, "; ".join(reasons)))
        else:
            unknown = unknown_accuracies.get(facts.name)
            missing_words = f"not measured {where}: {run_of(facts.name)}"
            fits.append(_fit(constraints, facts, accuracy, measured, unknown, missing_words))
    fits.sort(key=_rank)
    if evaluation is not None and fits:
        fits[0] = _with_similar(evaluation, fits)
    compared = [facts for facts in known.values() if (facts.task, facts.labels) == (constraints.task, labels)]
    return Recommendation(
        recommended=fits[0].facts.name if fits else None,
        why=_why(constraints, fits, nothing_measured=bool(unmeasured) and not comparable),
        accuracy_of=elsewhere(compared, constraints.task)
        if evaluation is None
        else origin(evaluation, labels),
        labels=labels,
        task=constraints.task,
        fits=tuple(fits),
        measured=tuple(comparable),
        rejected=tuple(sorted(rejected, key=lambda rejection: rejection.model)),
        run=command(sorted(unmeasured), runtimes) if unmeasured else None,
        evaluate=evaluate_command(evaluation, sorted(unevaluated)) if evaluation and unevaluated else None,
    )


def command(models: Sequence[str], runtimes: Mapping[str, RuntimeName] = MappingProxyType({})) -> str:
    """Return the command that measures these models, each in its runtime. The default is ONNX Runtime.

    The command calls `weighin bench` once for each runtime, with the models of this runtime: in a single
    call, `weighin bench` would run every model in every runtime. The calls are joined by `&&`.
    """
    commands = []
    for runtime in RUNTIMES:
        chosen = [model for model in models if runtimes.get(model, "onnxruntime") == runtime]
        option = "" if runtime == "onnxruntime" else f" --runtime {runtime}"
        if chosen:
            commands.append(f"weighin bench --profile standard --models {','.join(chosen)}{option}")
    return " && ".join(commands)


def _highest(constraints: Constraints) -> float:
    return max((fraction for fraction, _ in constraints.latency_bounds), default=0.5)


def _labels(
    constraints: Constraints, models: Iterable[ModelFacts], default: str, evaluation: Evaluation | None
) -> str:
    """Return the label set of the models to compare.

    Raises InvalidParameter if the constraints ask for a label set that no model of the task has, or, with an
    evaluation, that no evaluated model has.
    """
    sets = sorted({facts.labels for facts in models if facts.task == constraints.task})
    if evaluation is not None:
        return labels_of(evaluation, constraints.labels)
    labels = constraints.labels or (default if default in sets or not sets else sets[0])
    if labels not in sets and sets:
        raise InvalidParameter(f"labels '{labels[:64]}': unknown (allowed: {', '.join(sets)})")
    return labels


def _size(constraints: Constraints, facts: ModelFacts) -> list[str]:
    if constraints.max_bytes is not None and facts.bytes > constraints.max_bytes:
        return [f"{_mb(facts.bytes)} MB > {_mb(constraints.max_bytes)} MB"]
    return []


def _accuracy(constraints: Constraints, accuracy: AccuracyEstimate | None, unknown: str | None) -> list[str]:
    if constraints.min_accuracy is None:
        return []
    if accuracy is None:
        return [_unknown(unknown)]
    if accuracy.compared >= constraints.min_accuracy:
        return []
    how = f" ({accuracy.how})" if accuracy.kind == "inherited" else ""
    if accuracy.ranked is not None:
        how = " on the half of the pictures that models are chosen by"
    return [f"accuracy {accuracy.compared:.1%} < {constraints.min_accuracy:.1%}{how}"]


def _unknown(reason: str | None) -> str:
    return "accuracy unknown" if reason is None else f"accuracy unknown: {reason}"


def _latency(
    constraints: Constraints,
    model: str,
    measured: Measured | None,
    evidence: Evidence,
    where: str,
    run: str,
) -> tuple[list[str], bool]:
    """Return why the latency is not known to be within the bounds, and whether a benchmark is missing."""
    bounds = constraints.latency_bounds
    if not bounds:
        return [], False
    if measured is None:
        unusable = evidence.unusable.get(model, [])
        if not unusable:
            return [f"not measured {where}: {run}"], True
        others = f" (and {len(unusable) - 1} older)" if len(unusable) > 1 else ""
        return [f"no usable benchmark: {unusable[0]}{others}; {run}"], True
    reasons, missing = [], False
    for fraction, limit in bounds:
        name = f"p{fraction * 100:.0f}"
        bound = measured.percentile(fraction)
        if bound is None:
            missing = True
            needed = MIN_SAMPLES[fraction]
            reasons.append(f"{measured.count} runs are too few for a {name} (needed: {needed}): {run}")
        elif bound.estimate_ns > limit * 1e6:
            reasons.append(f"{name} {_ms(bound.estimate_ns)} ms > {limit:g} ms")
        elif bound.bound_ns > limit * 1e6:
            reasons.append(
                f"{name} is {_ms(bound.estimate_ns)} ms but may be up to {_ms(bound.bound_ns)} ms > "
                f"{limit:g} ms ({CONFIDENCE:.0%} confidence, n = {bound.n})"
            )
    return reasons, missing


def _fit(
    constraints: Constraints,
    facts: ModelFacts,
    accuracy: AccuracyEstimate | None,
    measured: Measured | None,
    unknown: str | None,
    not_measured: str,
) -> Fit:
    notes = []
    if accuracy is None:
        notes.append(_unknown(unknown))
    elif accuracy.kind == "inherited":
        notes.append(f"accuracy {accuracy.how}")
    minimum = constraints.min_accuracy
    if accuracy is not None and minimum is not None and accuracy.low < minimum:
        if accuracy.value < minimum:
            notes.append(
                f"accuracy {accuracy.value:.1%} < {minimum:.1%} on pictures that the ranking did not use"
            )
        notes.append(f"accuracy may be as low as {accuracy.low:.1%} (95 % interval)")
    if measured is None:
        notes.append(not_measured)
        return Fit(facts, accuracy, None, None, tuple(notes))
    confidences = [
        measured.confidence(fraction, limit * 1e6) for fraction, limit in constraints.latency_bounds
    ]
    return Fit(facts, accuracy, measured, min(confidences, default=None), (*notes, *measured.caveats))


def _with_similar(evaluation: Evaluation, fits: Sequence[Fit]) -> Fit:
    """Return the first of the models that fit, with notes on similar models among the rest."""
    best, *others = fits
    alternatives = []
    for fit in others:
        faster = None
        if fit.measured is not None and best.measured is not None:
            faster = faster_words(fit.measured, best.measured)
        alternatives.append(Alternative(fit.facts, _median(fit), faster or ""))
    return replace(best, notes=(*best.notes, *similar(evaluation, best.facts, alternatives)))


def _median(fit: Fit) -> float:
    return math.inf if fit.measured is None else fit.measured.p50_ms


def _rank(fit: Fit) -> tuple[float, float, int]:
    """Return the key by which models that fit are sorted.

    The most accurate model comes first. Models of equal accuracy are sorted by median latency, then by size.
    Models of unknown accuracy come last.
    """
    median = _median(fit)
    accuracy = fit.accuracy
    if accuracy is None:
        return (1.0, median, fit.facts.bytes)
    return (-accuracy.compared, median, fit.facts.bytes)


def _why(constraints: Constraints, fits: Sequence[Fit], *, nothing_measured: bool) -> str:
    """Return the reason for the first model that fits, or why no model fits.

    `nothing_measured` says that no model of the wanted task and label set has a usable benchmark, and that at
    least one of these models is ruled out neither by its size nor by its accuracy, so it needs a benchmark.
    """
    if not fits:
        what = "no usable benchmark" if nothing_measured else "no model is within all bounds"
        return f"{what}: see the reasons per model"
    best = fits[0]
    what = "the most accurate" if best.accuracy is not None else "of unknown accuracy, the fastest"
    parts = [f"{what} of {len(fits)} that fit" if len(fits) > 1 else "the only one that fits"]
    if best.accuracy is not None:
        how = f" ({best.accuracy.how})" if best.accuracy.kind == "evaluated" else ""
        parts.append(f"accuracy {best.accuracy.value:.1%}{how}")
    if best.measured is not None:
        for fraction, limit in constraints.latency_bounds:
            bound = best.measured.percentile(fraction)
            assert bound is not None
            parts.append(
                f"p{fraction * 100:.0f} at most {_ms(bound.bound_ns)} ms <= {limit:g} ms "
                f"({CONFIDENCE:.0%} confidence, n = {bound.n})"
            )
    parts.append(f"{_mb(best.facts.bytes)} MB")
    return ", ".join(parts)


def _ms(nanoseconds: float) -> str:
    """Format nanoseconds as milliseconds with three significant digits."""
    value = nanoseconds / 1e6
    return f"{value:.{max(0, _SIGNIFICANT_MS - 1 - math.floor(math.log10(max(value, 1e-3))))}f}"


def _mb(size: int) -> str:
    """Format bytes as megabytes (10^6) with three significant digits."""
    return f"{size / 1e6:.3g}"
