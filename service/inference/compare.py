"""One image through several models, side by side, alone on the cores."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.zoo.preprocess import preprocess
from service.errors import Busy, InvalidParameter
from service.inference.classify import check_top_k, class_count
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.pool import CorePool, Patience
from service.inference.postprocess import Prediction, top_predictions
from service.inference.registry import Registry, ServedModel
from service.latency.percentiles import percentile
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stage, Stopwatch

MAX_REPEAT = 50
MIN_REPEAT_FOR_FASTEST = 5
_STAGES: tuple[Stage, ...] = ("preprocess", "inference", "postprocess")


@dataclass(frozen=True)
class Latency:
    """Inference times of one model in one comparison, in nanoseconds; None: too few runs stand behind."""

    count: int
    min_ns: int
    p50_ns: int
    p90_ns: int | None
    p95_ns: int | None


@dataclass(frozen=True)
class ComparedModel:
    """One model's answer and cost; `durations` holds the median of each stage over the runs."""

    model: ServedModel
    predictions: tuple[Prediction, ...]
    durations: Durations
    latency: Latency
    speedup: float


@dataclass(frozen=True)
class Agreement:
    """Which models name which top-1 label, and the share of models that name the most common one."""

    top1: float
    labels: dict[str, list[str]]


@dataclass(frozen=True)
class Comparison:
    """The side-by-side view of one image. `order` is the order of the models in each measured round."""

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

    def choose(
        self, names: Sequence[str] | None, baseline: str | None, *, mix_labels: bool
    ) -> tuple[tuple[ServedModel, ...], str]:
        """The models to compare and the baseline's name.

        Without `names`: all with the default model's label set. Raises UnknownModel, ModelUnavailable, and
        InvalidParameter for names given twice, mixed label sets without `mix_labels`, or a baseline that is
        not compared.
        """
        models = tuple(map(self._registry.get, names)) if names else self._registry.comparable()
        compared = [model.name for model in models]
        twice = [name for name, count in Counter(compared).items() if count > 1]
        if twice:
            raise InvalidParameter(f"models names {', '.join(twice)} more than once")
        labels = sorted({model.card.labels for model in models})
        if len(labels) > 1 and not mix_labels:
            raise InvalidParameter(
                f"models have different label sets ({', '.join(labels)}): "
                "their answers are only comparable with mix_labels=true"
            )
        if baseline is None:
            default = self._registry.default_model
            baseline = default if default in compared else compared[0]
        elif baseline not in compared:
            self._registry.entry(baseline)
            raise InvalidParameter(f"baseline '{baseline}' is not compared; it may be {', '.join(compared)}")
        return models, baseline

    def check_cost(self, models: Sequence[ServedModel], top_k: int | None, repeat: int) -> None:
        """Raise InvalidParameter when the comparison may not be run: top_k, repeat, or its cost in time."""
        check_top_k(top_k, *models)
        if not 1 <= repeat <= MAX_REPEAT:
            raise InvalidParameter(f"repeat is {repeat}; it may be 1 to {MAX_REPEAT}")
        round_ns = sum(model.typical_ns for model in models)
        estimate_ns = round_ns * (repeat + 1)
        if estimate_ns > self._budget_ns:
            allowed = self._budget_ns // round_ns - 1
            may = f"repeat may be 1 to {allowed}" if allowed >= 1 else "compare fewer"
            raise InvalidParameter(
                f"{len(models)} models {repeat + 1} times would take about {estimate_ns / 1e9:.2g} s, "
                f"more than {self._budget_ns / 1e9:g} s; {may}"
            )

    def check_free(self) -> None:
        """Raise Busy while another comparison runs."""
        if self._busy:
            raise Busy("another comparison is running; one runs at a time")

    async def compare(
        self,
        data: bytes,
        models: Sequence[ServedModel],
        baseline: str,
        *,
        top_k: int | None,
        repeat: int,
        patience: Patience,
    ) -> Comparison:
        """Decode once, run each model once unrecorded, then `repeat` measured rounds in rotating order.

        Each round has all cores to itself; between rounds, requests that wait get their turn. The measured
        runs are recorded as `compare`. Without `top_k`, each model tells 5 classes, or all that it has.
        Rounds stop early when the machine turns out slower than estimated and the budget is spent:
        `latency.count` says how many there were.

        Raises Busy while another comparison runs, and the errors of `decode` and `CorePool.run`.
        """
        self.check_free()
        self._busy = True
        try:
            return await self._compare(data, models, baseline, top_k, repeat, patience)
        finally:
            self._busy = False

    async def _compare(
        self,
        data: bytes,
        models: Sequence[ServedModel],
        baseline: str,
        top_k: int | None,
        repeat: int,
        patience: Patience,
    ) -> Comparison:
        shorter_side = max(model.card.input.resize for model in models)
        stopwatch = Stopwatch()

        def first_job() -> tuple[DecodedImage, dict[str, _Runs], int]:
            stopwatch.lap("queue")
            image = decode(data, shorter_side=shorter_side, max_pixels=self._max_pixels)
            stopwatch.lap("decode")
            spent = Stopwatch()
            runs = {model.name: _Runs(_run(model, image, top_k)[0]) for model in models}
            spent.lap("total")
            return image, runs, spent.durations["total"]

        image, runs, spent_ns = await self._pool.run(first_job, patience, alone=True)
        order: list[tuple[str, ...]] = []
        for number in range(repeat):
            rotated = _rotated(models, number)

            def round_job(rotated: Sequence[ServedModel] = rotated) -> int:
                spent = Stopwatch()
                for model in rotated:
                    _, durations = _run(model, image, top_k)
                    runs[model.name].durations.append(durations)
                    self._recorder.record(model.name, "compare", durations, model.version)
                spent.lap("total")
                return spent.durations["total"]

            spent_ns += await self._pool.run(round_job, patience, alone=True)
            order.append(tuple(model.name for model in rotated))
            if spent_ns >= self._budget_ns:
                break
        stopwatch.lap("total")
        return _summary(image, stopwatch.stop(), models, runs, baseline, tuple(order))


def _run(
    model: ServedModel, image: DecodedImage, top_k: int | None
) -> tuple[tuple[Prediction, ...], dict[Stage, int]]:
    stopwatch = Stopwatch()
    tensor = preprocess(image.pixels, model.card.input, box=image.box)
    stopwatch.lap("preprocess")
    logits = model.session.run(tensor)["logits"][0]
    stopwatch.lap("inference")
    predictions = top_predictions(logits, model.labels, class_count(top_k, model), model.session.activation)
    stopwatch.lap("postprocess")
    return predictions, stopwatch.durations


def _rotated(models: Sequence[ServedModel], by: int) -> Sequence[ServedModel]:
    shift = by % len(models)
    return (*models[shift:], *models[:shift])


def _summary(
    image: DecodedImage,
    durations: Durations,
    models: Sequence[ServedModel],
    runs: dict[str, _Runs],
    baseline: str,
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
            speedup=latencies[baseline].p50_ns / latencies[model.name].p50_ns,
        )
        for model in models
    )
    fastest = min(models, key=lambda model: latencies[model.name].p50_ns).name
    return Comparison(
        image=image,
        durations=durations,
        results=results,
        baseline=baseline,
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
