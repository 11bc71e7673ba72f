"""Compare several models on one image, without other jobs on the cores."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from models.zoo.statistics import percentile
from service.errors import Busy, InvalidParameter
from service.inference.classify import Prediction, class_counts, predict
from service.inference.decoding.decode import DecodedImage
from service.inference.pipeline import load_image
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry, ServedModel
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stage, Stopwatch

T = TypeVar("T")

MAX_REPEAT = 50
MIN_REPEAT_FOR_FASTEST = 5
_STAGES: tuple[Stage, ...] = ("preprocess", "inference", "postprocess")


@dataclass(frozen=True)
class ComparePlan:
    """A validated comparison (see `Comparer.plan`); `counts[i]` classes are reported for `models[i]`."""

    models: tuple[ServedModel, ...]
    baseline: str
    counts: tuple[int, ...]
    repeat: int


@dataclass(frozen=True)
class Latency:
    """Inference times of one model in a comparison, in nanoseconds; None if there are too few runs."""

    count: int
    min_ns: int
    p50_ns: int
    p90_ns: int | None
    p95_ns: int | None


@dataclass(frozen=True)
class ComparedModel:
    """Predictions and latency of one model; `durations` are medians per stage over the runs."""

    model: ServedModel
    predictions: tuple[Prediction, ...]
    durations: Durations
    latency: Latency
    speedup: float


@dataclass(frozen=True)
class Agreement:
    """Models by top-1 label, and the share of models that predict the most common one."""

    top1: float
    labels: dict[str, list[str]]


@dataclass(frozen=True)
class Comparison:
    """Results of all models on one image. `order`: names of the models in each measured round."""

    image: DecodedImage
    durations: Durations
    results: tuple[ComparedModel, ...]
    baseline: str
    agreement: Agreement
    fastest: str | None
    order: tuple[tuple[str, ...], ...]


@dataclass
class _Runs:
    predictions: tuple[Prediction, ...]
    durations: list[Durations] = field(default_factory=list)


class Comparer:
    """Runs comparisons, one at a time."""

    def __init__(
        self, registry: Registry, pool: CorePool, recorder: Recorder, *, max_pixels: int, budget_s: float
    ) -> None:
        self._registry = registry
        self._pool = pool
        self._recorder = recorder
        self._max_pixels = max_pixels
        self._budget_ns = int(budget_s * 1e9)
        self._busy = False

    def plan(
        self,
        names: Sequence[str] | None,
        baseline: str | None,
        *,
        mix_labels: bool,
        top_k: int | None,
        repeat: int,
    ) -> ComparePlan:
        """Select models and baseline, and validate the comparison.

        `names` None: all models with the default model's label set. `baseline` None: the default model, or
        the first model if the default one is not compared. Raises UnknownModel, ModelUnavailable, NotReady,
        Busy while another comparison runs, and InvalidParameter for empty or repeated names, mixed label sets
        without `mix_labels`, a baseline that is not compared, an invalid `top_k` or `repeat`, or an estimated
        time over the budget.
        """
        models = self._select(names, mix_labels)
        plan = ComparePlan(
            models=models,
            baseline=self._baseline(baseline, [model.name for model in models]),
            counts=class_counts(top_k, *models),
            repeat=repeat,
        )
        self._check_cost(plan)
        self._check_free()
        return plan

    def _select(self, names: Sequence[str] | None, mix_labels: bool) -> tuple[ServedModel, ...]:
        if names is not None and not names:
            raise InvalidParameter("models: empty (leave it out to compare all)")
        models = self._registry.comparable() if names is None else tuple(map(self._registry.get, names))
        counts = Counter(model.name for model in models)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise InvalidParameter(f"models: {', '.join(repeated)} more than once")
        labels = sorted({model.card.labels for model in models})
        if len(labels) > 1 and not mix_labels:
            raise InvalidParameter(
                f"models: different label sets ({', '.join(labels)}) (allowed: one, or mix_labels=true)"
            )
        return models

    def _baseline(self, baseline: str | None, compared: Sequence[str]) -> str:
        if baseline is None:
            default = self._registry.default_model
            return default if default in compared else compared[0]
        if baseline not in compared:
            self._registry.entry(baseline)
            raise InvalidParameter(f"baseline '{baseline}': not compared (allowed: {', '.join(compared)})")
        return baseline

    def _check_cost(self, plan: ComparePlan) -> None:
        if not 1 <= plan.repeat <= MAX_REPEAT:
            raise InvalidParameter(f"repeat {plan.repeat}: out of range (allowed: 1 to {MAX_REPEAT})")
        runs = plan.repeat + 1
        round_ns = sum(model.typical_ns for model in plan.models)
        if round_ns * runs > self._budget_ns:
            allowed = self._budget_ns // round_ns - 1
            hint = f"allowed: repeat 1 to {allowed}" if allowed >= 1 else "use fewer models"
            raise InvalidParameter(
                f"comparison: {runs} runs of {len(plan.models)} models take about "
                f"{round_ns * runs / 1e9:.2g} s (limit: {self._budget_ns / 1e9:g} s; {hint})"
            )

    def _check_free(self) -> None:
        if self._busy:
            raise Busy("comparison: another one is running (limit: 1)")

    async def run(self, plan: ComparePlan, data: bytes, deadline: Deadline) -> Comparison:
        """Decode once, run each model once as warm-up, then `repeat` measured rounds in rotating order.

        Each round has all cores to itself; queued requests run between rounds. The measured runs are recorded
        as `compare`. If the machine is slower than estimated, rounds stop when the budget is spent;
        `latency.count` has the number of rounds.

        Raises Busy while another comparison runs, and the errors of `decode` and `CorePool.run`.
        """
        self._check_free()
        self._busy = True
        try:
            return await self._run(plan, data, deadline)
        finally:
            self._busy = False

    async def _run(self, plan: ComparePlan, data: bytes, deadline: Deadline) -> Comparison:
        specs = [model.card.input for model in plan.models]
        pairs = tuple(zip(plan.models, plan.counts, strict=True))
        stopwatch = Stopwatch()

        def first_job() -> tuple[DecodedImage, dict[str, _Runs], int]:
            stopwatch.lap("queue")
            image = load_image(data, *specs, max_pixels=self._max_pixels, stopwatch=stopwatch)
            clock = Stopwatch()
            runs = {model.name: _Runs(predict(model, image, count, Stopwatch())) for model, count in pairs}
            clock.lap("total")
            return image, runs, clock.durations["total"]

        image, runs, spent_ns = await self._pool.run(first_job, deadline, exclusive=True)
        order: list[tuple[str, ...]] = []
        for number in range(plan.repeat):
            rotated = _rotated(pairs, number)

            def round_job(rotated: Sequence[tuple[ServedModel, int]] = rotated) -> int:
                clock = Stopwatch()
                for model, count in rotated:
                    laps = Stopwatch()
                    predict(model, image, count, laps)
                    runs[model.name].durations.append(laps.durations)
                    self._recorder.record(model.name, "compare", laps.durations, model.version)
                clock.lap("total")
                return clock.durations["total"]

            spent_ns += await self._pool.run(round_job, deadline, exclusive=True)
            order.append(tuple(model.name for model, _ in rotated))
            if spent_ns >= self._budget_ns:
                break
        stopwatch.lap("total")
        return _summary(plan, image, stopwatch.stop(), runs, tuple(order))


def _rotated(items: Sequence[T], by: int) -> Sequence[T]:
    shift = by % len(items)
    return (*items[shift:], *items[:shift])


def _summary(
    plan: ComparePlan,
    image: DecodedImage,
    durations: Durations,
    runs: dict[str, _Runs],
    order: tuple[tuple[str, ...], ...],
) -> Comparison:
    latencies = {name: _latency([run["inference"] for run in own.durations]) for name, own in runs.items()}
    results = tuple(
        ComparedModel(
            model=model,
            predictions=runs[model.name].predictions,
            durations={
                stage: int(statistics.median(run[stage] for run in runs[model.name].durations))
                for stage in _STAGES
            },
            latency=latencies[model.name],
            speedup=latencies[plan.baseline].p50_ns / latencies[model.name].p50_ns,
        )
        for model in plan.models
    )
    fastest = min(plan.models, key=lambda model: latencies[model.name].p50_ns).name
    return Comparison(
        image=image,
        durations=durations,
        results=results,
        baseline=plan.baseline,
        agreement=_agreement(results),
        fastest=fastest if len(order) >= MIN_REPEAT_FOR_FASTEST else None,
        order=order,
    )


def _latency(samples: Sequence[int]) -> Latency:
    return Latency(
        count=len(samples),
        min_ns=min(samples),
        p50_ns=int(statistics.median(samples)),
        p90_ns=percentile(samples, 0.90),
        p95_ns=percentile(samples, 0.95),
    )


def _agreement(results: Sequence[ComparedModel]) -> Agreement:
    labels: defaultdict[str, list[str]] = defaultdict(list)
    for result in results:
        labels[result.predictions[0].label].append(result.model.name)
    most = max(map(len, labels.values()))
    return Agreement(top1=most / len(results), labels=dict(labels))
