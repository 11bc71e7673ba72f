"""Which network fits: bounds compared with measurements, ranked, with reasons for each that does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.zoo.statistics import CONFIDENCE, MIN_SAMPLES
from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate, estimate_accuracy
from service.bench.recommend.evidence import Evidence, Measured
from service.bench.recommend.pareto import Candidate, Dominated, front
from service.errors import InvalidParameter

_SIGNIFICANT_MS = 3


@dataclass(frozen=True)
class Constraints:
    """What a model must keep to; None: no bound. Raises InvalidParameter for a bound without a meaning."""

    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    max_bytes: int | None = None
    min_accuracy: float | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        for name in ("p50_ms", "p90_ms", "p99_ms", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidParameter(f"{name} is {value}; it must be more than 0 and finite")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise InvalidParameter(
                f"min_accuracy is {self.min_accuracy}; it may be 0 to 1, as in 0.7 for 70 %"
            )

    @property
    def latency_bounds(self) -> list[tuple[float, float]]:
        """(fraction, milliseconds) of each percentile that is bounded, the highest first."""
        bounds = ((0.99, self.p99_ms), (0.90, self.p90_ms), (0.50, self.p50_ms))
        return [(fraction, limit) for fraction, limit in bounds if limit is not None]


@dataclass(frozen=True)
class Fit:
    """A model that keeps to everything. `confidence`: of its latency; None where none was bounded."""

    facts: ModelFacts
    accuracy: AccuracyEstimate | None
    measured: Measured | None
    confidence: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Rejected:
    """A model that does not fit, and all reasons why, in words."""

    model: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """`why` explains `recommended`; `measured` are all that `pareto` was taken from; `run` is the command
    that would add the evidence that is missing."""

    recommended: str | None
    why: str
    labels: str
    fits: tuple[Fit, ...]
    measured: tuple[Candidate, ...]
    pareto: tuple[Candidate, ...]
    dominated: tuple[Dominated, ...]
    rejected: tuple[Rejected, ...]
    run: str | None


def recommend(
    constraints: Constraints,
    models: Iterable[ModelFacts],
    evidence: Evidence,
    default_labels: str,
    broken: Mapping[str, str] | None = None,
) -> Recommendation:
    """Recommend the best of `models` under `constraints`. `broken`: what cannot be served, with the reason.

    Without a label set in them it is `default_labels`, as accuracies on different ones do not compare.
    Raises InvalidParameter for a label set that no model has.
    """
    known = {facts.name: facts for facts in models}
    sets = sorted({facts.labels for facts in known.values()})
    labels = constraints.labels or (default_labels if default_labels in sets or not sets else sets[0])
    if labels not in sets and sets:
        raise InvalidParameter(f"labels is '{labels[:64]}'; the models have {', '.join(sets)}")
    fits: list[Fit] = []
    rejected = [Rejected(name, f"it cannot be served: {why}") for name, why in (broken or {}).items()]
    lacking: list[str] = []
    comparable: list[Candidate] = []
    for facts in known.values():
        accuracy = estimate_accuracy(facts)
        if facts.labels != labels:
            rejected.append(Rejected(facts.name, f"its labels are {facts.labels}, not {labels}"))
            continue
        measured = evidence.best(facts.name, _highest(constraints))
        if measured is not None:
            comparable.append(Candidate(measured, accuracy))
        reasons = _size_and_accuracy(constraints, facts, accuracy)
        latency, missing = _latency(constraints, facts.name, measured, evidence)
        if missing and not reasons:
            lacking.append(facts.name)
        reasons += latency
        if reasons:
            rejected.append(Rejected(facts.name, "; ".join(reasons)))
        else:
            fits.append(_fit(constraints, facts, accuracy, measured))
    fits.sort(key=_rank)
    on_front, dominated = front(comparable)
    return Recommendation(
        recommended=fits[0].facts.name if fits else None,
        why=_why(constraints, fits, evidence),
        labels=labels,
        fits=tuple(fits),
        measured=tuple(comparable),
        pareto=tuple(on_front),
        dominated=tuple(dominated),
        rejected=tuple(sorted(rejected, key=lambda each: each.model)),
        run=command(sorted(lacking)) if lacking else None,
    )


def command(models: Sequence[str]) -> str:
    """What to run to get evidence of these models."""
    return f"weighin bench --profile standard --models {','.join(models)}"


def _highest(constraints: Constraints) -> float:
    return max((fraction for fraction, _ in constraints.latency_bounds), default=0.5)


def _size_and_accuracy(
    constraints: Constraints, facts: ModelFacts, accuracy: AccuracyEstimate | None
) -> list[str]:
    reasons = []
    if constraints.max_bytes is not None and facts.bytes > constraints.max_bytes:
        reasons.append(f"{_mb(facts.bytes)} MB > {_mb(constraints.max_bytes)} MB")
    if constraints.min_accuracy is not None:
        if accuracy is None:
            reasons.append("its accuracy is not known")
        elif accuracy.value < constraints.min_accuracy:
            how = f" ({accuracy.how})" if accuracy.kind == "inherited" else ""
            reasons.append(f"accuracy {accuracy.value:.1%} < {constraints.min_accuracy:.1%}{how}")
    return reasons


def _latency(
    constraints: Constraints, model: str, measured: Measured | None, evidence: Evidence
) -> tuple[list[str], bool]:
    """Why the model's latency is not within the bounds; and whether that is for want of a measurement."""
    bounds = constraints.latency_bounds
    if not bounds:
        return [], False
    run = f"run `{command([model])}`"
    if measured is None:
        unusable = evidence.unusable.get(model, [])
        if not unusable:
            return [f"not measured here: {run}"], True
        others = f" (and {len(unusable) - 1} older)" if len(unusable) > 1 else ""
        return [f"no usable measurement: {unusable[0]}{others}; {run}"], True
    reasons, missing = [], False
    for fraction, limit in bounds:
        name = f"p{fraction * 100:.0f}"
        bound = measured.percentile(fraction)
        if bound is None:
            missing = True
            few = f"{measured.count} runs are too few for a {name} ({MIN_SAMPLES[fraction]})"
            reasons.append(f"{'quick runs give no p99' if measured.quick else few}: {run}")
        elif bound.estimate_ns > limit * 1e6:
            reasons.append(f"{name} {_ms(bound.estimate_ns)} ms > {limit:g} ms")
        elif bound.bound_ns > limit * 1e6:
            reasons.append(
                f"{name} is {_ms(bound.estimate_ns)} ms but may be up to {_ms(bound.bound_ns)} ms > "
                f"{limit:g} ms ({CONFIDENCE:.0%} confidence, n = {bound.n})"
            )
    return reasons, missing


def _fit(
    constraints: Constraints, facts: ModelFacts, accuracy: AccuracyEstimate | None, measured: Measured | None
) -> Fit:
    notes = []
    if accuracy is None:
        notes.append("its accuracy is not known")
    elif accuracy.kind == "inherited":
        notes.append(f"accuracy {accuracy.how}")
    wanted = constraints.min_accuracy
    if accuracy is not None and wanted is not None and accuracy.low < wanted:
        notes.append(f"its accuracy may be as low as {accuracy.low:.1%} (95 % interval)")
    if measured is None:
        notes.append(f"not measured here: run `{command([facts.name])}`")
        return Fit(facts, accuracy, None, None, tuple(notes))
    sure = [measured.confidence(fraction, limit * 1e6) for fraction, limit in constraints.latency_bounds]
    return Fit(facts, accuracy, measured, min(sure, default=None), (*notes, *measured.caveats))


def _rank(fit: Fit) -> tuple[float, float, int]:
    """Most accurate first; of equals the faster, then the smaller."""
    median = math.inf if fit.measured is None else fit.measured.p50_ms
    return (1.0 if fit.accuracy is None else -fit.accuracy.value, median, fit.facts.bytes)


def _why(constraints: Constraints, fits: Sequence[Fit], evidence: Evidence) -> str:
    if not fits:
        if not evidence.usable:
            return "nothing that counts has been measured here"
        return "no model keeps to all of it: see why each is out"
    best = fits[0]
    words = [f"the most accurate of {len(fits)} that fit" if len(fits) > 1 else "the only one that fits"]
    if best.accuracy is not None:
        words.append(f"accuracy {best.accuracy.value:.1%}")
    if best.measured is not None:
        for fraction, limit in constraints.latency_bounds:
            bound = best.measured.percentile(fraction)
            assert bound is not None
            words.append(
                f"p{fraction * 100:.0f} at most {_ms(bound.bound_ns)} ms <= {limit:g} ms "
                f"({CONFIDENCE:.0%} confidence, n = {bound.n})"
            )
    words.append(f"{_mb(best.facts.bytes)} MB")
    return ", ".join(words)


def _ms(nanoseconds: float) -> str:
    """Milliseconds with three digits that count."""
    value = nanoseconds / 1e6
    return f"{value:.{max(0, _SIGNIFICANT_MS - 1 - math.floor(math.log10(max(value, 1e-3))))}f}"


def _mb(size: int) -> str:
    """Megabytes (10^6) with three digits that count."""
    return f"{size / 1e6:.3g}"
