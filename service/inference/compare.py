"""Compare several models on one image, while no other job uses the cores."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from models.zoo.statistics import percentile
from service.errors import Busy, InvalidParameter
from service.inference.classify import Prediction, class_counts, predict
from service.inference.decoding.decode import DecodedImage
from service.inference.detect import DetectPlan, Found, detect_plan, find_objects
from service.inference.detection.matching import MatchedObject, Seen, match_objects
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stage, Stopwatch

T = TypeVar("T")

MAX_REPEAT = 50
MIN_REPEAT_FOR_FASTEST = 5
_STAGES: tuple[Stage, ...] = ("preprocess", "inference", "postprocess", "nms")

Reported = int | DetectPlan
"""What a comparison reports for a model. For a classifier, it is the number of most probable classes. For a
detector, it is the plan that says which objects are detected."""
Result = tuple[Prediction, ...] | tuple[Found, ...]


@dataclass(frozen=True)
class ComparePlan:
    """A validated comparison, as `Comparer.plan` returns it.

    `reported[i]` is what the comparison reports for `models[i]`. `repeat` is the number of measured rounds.
    """

    models: tuple[ServedModel, ...]
    baseline: str
    reported: tuple[Reported, ...]
    repeat: int


@dataclass(frozen=True)
class Latency:
    """Inference times of one model in a comparison, in nanoseconds.

    `count` is the number of runs. A percentile is None if there are too few runs for it.
    """

    count: int
    min_ns: int
    p50_ns: int
    p90_ns: int | None
    p95_ns: int | None


@dataclass(frozen=True)
class ComparedModel:
    """Results and latency of one model in a comparison.

    For a classifier, `predictions` is set and `objects` is None. For a detector, `objects` is set and
    `predictions` is None. `durations`: for each stage, the median over the runs. `speedup`: the baseline's
    median inference time divided by the median inference time of this model.
    """

    model: ServedModel
    predictions: tuple[Prediction, ...] | None
    objects: tuple[Found, ...] | None
    durations: Durations
    latency: Latency
    speedup: float


@dataclass(frozen=True)
class Agreement:
    """How far the compared classifiers agree on the most probable class.

    `labels` maps a label to the names of the models for which its class is the most probable one. `top1`: the
    share of the models that agree on the most common of these labels.
    """

    top1: float
    labels: dict[str, list[str]]


@dataclass(frozen=True)
class ObjectFound:
    """An object that at least one of the compared detectors found.

    `best`: the detection of the object with the highest score. `found_by` maps the name of each model that
    found the object to the index of the detection among this model's objects. `iou`: the lowest intersection
    over union between the box of `best` and the box of another model. `iou` is None if only one model found
    the object.
    """

    best: Found
    found_by: dict[str, int]
    iou: float | None


@dataclass(frozen=True)
class Comparison:
    """Results of all models on one image.

    `durations`: times of the stages that all models share, and the total time. `order`: for each measured
    round, the names of the models in the order of their runs. `agreement`: how far the classifiers agree. It
    is None if no classifier was compared. `objects`: the objects that the detectors found, matched by boxes.
    It is None if no detector was compared. `fastest`: the model with the lowest median inference time. It is
    None after too few rounds.
    """

    image: DecodedImage
    durations: Durations
    results: tuple[ComparedModel, ...]
    baseline: str
    agreement: Agreement | None
    objects: tuple[ObjectFound, ...] | None
    fastest: str | None
    order: tuple[tuple[str, ...], ...]


@dataclass
class _Runs:
    result: Result
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
        mix_tasks: bool = False,
        top_k: int | None,
        min_score: float | None = None,
        repeat: int,
    ) -> ComparePlan:
        """Select models and baseline, and validate the comparison.

        If `names` is None, all models with the default model's label set are compared. If `baseline` is None,
        the baseline is the default model, or the first model if the default model is not compared.

        Raises UnknownModel, ModelUnavailable, NotReady, and Busy while another comparison runs. Raises
        InvalidParameter for:

        - empty or repeated names, or a baseline that is not among the compared models
        - models of different tasks, unless `mix_tasks`
        - models of one task with different label sets, unless `mix_labels`
        - an estimated time over the budget
        - an invalid `repeat`, `top_k` (of classifiers) or `min_score` (of detectors)
        """
        models = self._select(names, mix_labels, mix_tasks)
        plan = ComparePlan(
            models=models,
            baseline=self._baseline(baseline, [model.name for model in models]),
            reported=_reported(models, top_k, min_score),
            repeat=repeat,
        )
        self._check_cost(plan)
        self._check_free()
        return plan

    def _select(
        self, names: Sequence[str] | None, mix_labels: bool, mix_tasks: bool
    ) -> tuple[ServedModel, ...]:
        if names is not None and not names:
            raise InvalidParameter("models: empty (leave it out to compare all)")
        models = self._registry.comparable() if names is None else tuple(map(self._registry.get, names))
        counts = Counter(model.name for model in models)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise InvalidParameter(f"models: {', '.join(repeated)} more than once")
        label_sets = defaultdict(set)
        for model in models:
            label_sets[model.card.task].add(model.card.labels)
        if len(label_sets) > 1 and not mix_tasks:
            raise InvalidParameter(
                f"models: different tasks ({', '.join(sorted(label_sets))}) (allowed: one, or mix_tasks=true)"
            )
        for labels in label_sets.values():
            if len(labels) > 1 and not mix_labels:
                raise InvalidParameter(
                    f"models: different label sets ({', '.join(sorted(labels))}) "
                    "(allowed: one, or mix_labels=true)"
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
        """Decode the image once, run each model once as warm-up, then run `repeat` measured rounds.

        The order of the models rotates from round to round. Each round has all cores to itself; queued
        requests run between rounds. The measured runs are recorded in the regime `compare`. If the machine is
        slower than estimated, no round starts after the time budget is spent; `latency.count` is the number
        of rounds that ran.

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
        pairs = tuple(zip(plan.models, plan.reported, strict=True))
        stopwatch = Stopwatch()

        def first_job() -> tuple[DecodedImage, dict[str, _Runs], int]:
            stopwatch.lap("queue")
            image = load_image(data, *specs, max_pixels=self._max_pixels, stopwatch=stopwatch)
            clock = Stopwatch()
            runs = {model.name: _Runs(_run(model, image, reported, Stopwatch())) for model, reported in pairs}
            clock.lap("total")
            return image, runs, clock.durations["total"]

        image, runs, spent_ns = await self._pool.run(first_job, deadline, exclusive=True)
        order: list[tuple[str, ...]] = []
        for number in range(plan.repeat):
            rotated = _rotated(pairs, number)

            def round_job(rotated: Sequence[tuple[ServedModel, Reported]] = rotated) -> int:
                clock = Stopwatch()
                for model, reported in rotated:
                    laps = Stopwatch()
                    _run(model, image, reported, laps)
                    runs[model.name].durations.append(laps.durations)
                    self._recorder.record(
                        model.name, "compare", laps.durations, model.version, model.predictor.label
                    )
                clock.lap("total")
                return clock.durations["total"]

            spent_ns += await self._pool.run(round_job, deadline, exclusive=True)
            order.append(tuple(model.name for model, _ in rotated))
            if spent_ns >= self._budget_ns:
                break
        stopwatch.lap("total")
        return _summary(plan, image, stopwatch.stop(), runs, tuple(order))


def _reported(
    models: Sequence[ServedModel], top_k: int | None, min_score: float | None
) -> tuple[Reported, ...]:
    """Return what the comparison reports for each model (see `Reported`). Raises InvalidParameter."""
    classifiers = [model for model in models if model.decoder is None]
    for name, value, missing in (
        ("top_k", top_k, not classifiers),
        ("min_score", min_score, len(classifiers) == len(models)),
    ):
        if value is not None and missing:
            kind = "classifier" if name == "top_k" else "detector"
            raise InvalidParameter(f"{name} {value:g}: no {kind} is compared (allowed: leave it out)")
    counts = iter(class_counts(top_k, *classifiers) if classifiers else ())
    return tuple(next(counts) if model.decoder is None else detect_plan(model, min_score) for model in models)


def _run(model: ServedModel, image: DecodedImage, reported: Reported, laps: Stopwatch) -> Result:
    """Run one model on the image and return its most probable classes, or the objects it finds."""
    if isinstance(reported, DetectPlan):
        return find_objects(reported, image, laps)
    return predict(model, image, reported, laps)


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
            predictions=None if model.decoder else cast("tuple[Prediction, ...]", runs[model.name].result),
            objects=cast("tuple[Found, ...]", runs[model.name].result) if model.decoder else None,
            durations={
                stage: int(statistics.median(run[stage] for run in runs[model.name].durations))
                for stage in _STAGES
                if stage in runs[model.name].durations[0]
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
        objects=_objects(results),
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


def _agreement(results: Sequence[ComparedModel]) -> Agreement | None:
    labels: defaultdict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.predictions is not None:
            labels[result.predictions[0].label].append(result.model.name)
    if not labels:
        return None
    counts = [len(names) for names in labels.values()]
    return Agreement(top1=max(counts) / sum(counts), labels=dict(labels))


def _objects(results: Sequence[ComparedModel]) -> tuple[ObjectFound, ...] | None:
    """Return the objects that the detectors found, matched by boxes. Return None if there is no detector."""
    detectors = [(result.model.name, result.objects) for result in results if result.objects is not None]
    if not detectors:
        return None
    seen = [[Seen(found.label, found.score, found.box) for found in objects] for _, objects in detectors]

    def named(matched: MatchedObject) -> ObjectFound:
        best = detectors[matched.first][1][matched.found_by[matched.first]]
        found_by = {detectors[detector][0]: number for detector, number in matched.found_by.items()}
        return ObjectFound(best, found_by, matched.iou)

    return tuple(map(named, match_objects(seen)))
