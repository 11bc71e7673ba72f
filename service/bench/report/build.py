"""Build a report from a benchmark, the cards of its models, and an evaluation of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from models.zoo.card import Card
from models.zoo.display import counted, joined, shown
from models.zoo.statistics import PercentileBound, highest
from service.bench.bundle import Bundle, Entry, ModelFacts
from service.bench.judge.summary import EntrySummary, is_like_the_service, summarise
from service.bench.judge.verdicts import Comparison
from service.bench.recommend.accuracy import AccuracyEstimate, estimate_accuracy
from service.bench.recommend.evidence import Measured, StoredBundle
from service.bench.recommend.pareto import Candidate
from service.bench.recommend.pareto import front as pareto_front
from service.bench.report.caveats import evaluated_labels, find_caveats, same_model
from service.bench.report.document import (
    AccuracyFigure,
    BoundFigure,
    ClassFigure,
    ControlFigures,
    CoveredLabels,
    EvaluatedModel,
    Front,
    FrontModel,
    LatencyFigures,
    Report,
    ReportedBenchmark,
    ReportedEvaluation,
    ReportedModel,
    SpeedUp,
)
from service.bench.report.reproduce import steps
from service.evaluation.result import Evaluation, ModelResult


def build_report(
    stored: StoredBundle, digest: str, cards: Mapping[str, Card], evaluation: Evaluation | None = None
) -> Report:
    """Return the report of a benchmark.

    `digest` is the digest that the file of the bundle states. `cards` has the cards of the zoo by name of the
    model, for facts that a bundle lacks.

    Accuracies are those that the cards stated when the benchmark ran. If there is an evaluation, then for
    each model with a label set of the evaluation, the report states the accuracy on the evaluation's pictures
    instead. If the evaluation did not run such a model, or ran another file of the model than the benchmark
    did, the report states no accuracy for it.
    """
    bundle = stored.bundle
    summaries = summarise(bundle)
    measured = {entry.name: Measured(stored, entry) for entry in bundle.entries if _has_median(bundle, entry)}
    results = {} if evaluation is None else _results(bundle, evaluation)
    accuracies = {facts.name: _accuracy(facts, evaluation, results) for facts in bundle.models}
    fronts = _fronts(bundle, measured, accuracies)
    reported = None if evaluation is None else _evaluation(evaluation, results, accuracies)
    return Report(
        title=_title(bundle),
        question=_question(bundle, evaluation),
        answers=tuple(_answer(front) for front in fronts),
        benchmark=_benchmark(stored, digest, summaries),
        fingerprint=bundle.fingerprint,
        models=tuple(_model(bundle, summary, measured, accuracies) for summary in summaries),
        fronts=fronts,
        evaluation=reported,
        caveats=find_caveats(bundle, summaries, accuracies, cards, evaluation, fronts),
        reproduce=steps(stored, evaluation),
    )


def _has_median(bundle: Bundle, entry: Entry) -> bool:
    """Return whether the entry has latencies of single images and `is_like_the_service` accepts it."""
    return (
        bundle.configuration.scenario == "single-stream"
        and is_like_the_service(entry)
        and bool(bundle.samples(entry.name, "inference"))
    )


def _results(bundle: Bundle, evaluation: Evaluation) -> dict[str, ModelResult]:
    """Return the evaluation's results for the measured models by name, in the order of the bundle.

    Models that the evaluation does not have, or has with another file or other labels, are left out.
    """
    results = {facts.name: same_model(evaluation, facts) for facts in bundle.models}
    return {name: result for name, result in results.items() if result is not None}


def _accuracy(
    facts: ModelFacts, evaluation: Evaluation | None, results: Mapping[str, ModelResult]
) -> AccuracyFigure | None:
    if evaluation is None or facts.labels not in evaluated_labels(evaluation):
        estimate = estimate_accuracy(facts)
        return None if estimate is None else _figure(estimate)
    result = results.get(facts.name)
    if result is None:
        return None
    verdict, rival = _verdict(evaluation, result, results.values())
    what = "top-1" if result.classification is not None else "average precision"
    return AccuracyFigure(
        value=result.accuracy.value,
        low=result.accuracy.low,
        high=result.accuracy.high,
        kind="evaluated",
        how=f"{what} on {counted(result.n, 'picture', 'pictures')} of '{shown(evaluation.data.name)}'",
        verdict=verdict,
        rival=rival,
    )


def _verdict(
    evaluation: Evaluation, result: ModelResult, results: Iterable[ModelResult]
) -> tuple[Literal["highest", "worse", "not distinguishable"] | None, str | None]:
    """Compare a model with its rival, the most accurate model of its label set.

    Return the verdict and the rival. If several models are the most accurate, the rival is the first of them
    by name. There is no rival if the model itself has the highest accuracy.
    """
    rivals = [each for each in results if each.labels == result.labels]
    best = [each.name for each in highest(rivals, lambda each: each.accuracy.value)]
    if result.name in best:
        return "highest", None
    rival = min(best)
    verdict = evaluation.verdict(result.name, rival)
    return None if verdict == "better" else verdict, rival


def _figure(estimate: AccuracyEstimate) -> AccuracyFigure:
    return AccuracyFigure(
        value=round(estimate.value, 6),
        low=round(estimate.low, 6),
        high=round(estimate.high, 6),
        kind=estimate.kind,
        how=estimate.how,
    )


def _fronts(
    bundle: Bundle, measured: Mapping[str, Measured], accuracies: Mapping[str, AccuracyFigure | None]
) -> tuple[Front, ...]:
    """Return one front for each pair of task and label set, in the order of the bundle."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for name, each in measured.items():
        facts = bundle.model_of(bundle.entry(name))
        candidate = Candidate(each, _estimate(accuracies[facts.name]))
        groups.setdefault((facts.task, facts.labels), []).append(candidate)
    fronts = []
    for (_, labels), candidates in groups.items():
        _, dominated = pareto_front(candidates)
        beaten = {each.model: each for each in dominated}
        models = []
        for candidate in candidates:
            mine = candidate.measured
            low, high = mine.median_interval_ns
            dominator = beaten.get(mine.name)
            models.append(
                FrontModel(
                    entry=mine.entry.name,
                    accuracy=accuracies[mine.name],
                    p50_ms=_ms(float(np.median(mine.samples_ns))),
                    p50_low_ms=None if low is None else _ms(low),
                    p50_high_ms=None if high is None else _ms(high),
                    bytes=mine.facts.bytes,
                    on_front=None if candidate.accuracy is None else dominator is None,
                    dominated_by=None if dominator is None else dominator.by,
                    reason=None if dominator is None else dominator.reason,
                )
            )
        fronts.append(Front(task=candidates[0].measured.facts.task, labels=labels, models=tuple(models)))
    return tuple(fronts)


def _estimate(figure: AccuracyFigure | None) -> AccuracyEstimate | None:
    if figure is None:
        return None
    return AccuracyEstimate(figure.value, figure.low, figure.high, figure.kind, figure.how)


def _model(
    bundle: Bundle,
    summary: EntrySummary,
    measured: Mapping[str, Measured],
    accuracies: Mapping[str, AccuracyFigure | None],
) -> ReportedModel:
    entry, facts = summary.entry, summary.model
    return ReportedModel(
        entry=entry.name,
        model=facts.name,
        baseline=entry.name == bundle.configuration.baseline,
        control=entry.control,
        task=facts.task,
        labels=facts.labels,
        precision=facts.precision,
        height=facts.height,
        width=facts.width,
        runtime=entry.runtime,
        threads=entry.threads,
        via=entry.via,
        sha256=facts.sha256,
        bytes=facts.bytes,
        parameters=facts.parameters,
        macs=facts.macs,
        accuracy=accuracies[facts.name],
        latency=_latency(summary, measured.get(entry.name)),
        images_per_s=None if summary.images_per_s is None else round(summary.images_per_s, 3),
        queries_per_s=None if summary.rate_per_s is None else round(summary.rate_per_s, 3),
        peak_memory_bytes=summary.peak_memory_bytes,
        load_ms=None if summary.load_ns is None else _ms(summary.load_ns),
        first_run_ms=None if summary.first_run_ns is None else _ms(summary.first_run_ns),
        speed_up=_speed_up(summary.comparison),
    )


def _speed_up(comparison: Comparison | None) -> SpeedUp | None:
    if comparison is None:
        return None
    value, low, high = comparison.speedup
    return SpeedUp(value=value, low=low, high=high, verdict=comparison.verdict)


def _latency(summary: EntrySummary, measured: Measured | None) -> LatencyFigures | None:
    if summary.p50_ns is None:
        return None
    low, high = (None, None) if measured is None else measured.median_interval_ns
    return LatencyFigures(
        stage=summary.stage,
        count=summary.count,
        p50_ms=_ms(summary.p50_ns),
        p50_low_ms=None if low is None else _ms(low),
        p50_high_ms=None if high is None else _ms(high),
        p90=_bound(summary.p90),
        p99=_bound(summary.p99),
    )


def _bound(bound: PercentileBound | None) -> BoundFigure | None:
    if bound is None:
        return None
    return BoundFigure(estimate_ms=_ms(bound.estimate_ns), bound_ms=_ms(bound.bound_ns))


def _benchmark(stored: StoredBundle, digest: str, summaries: Sequence[EntrySummary]) -> ReportedBenchmark:
    bundle = stored.bundle
    configuration = bundle.configuration
    control = next((each.comparison for each in summaries if each.entry.control and each.comparison), None)
    return ReportedBenchmark(
        name=shown(stored.id),
        digest=digest,
        started_at=bundle.started_at,
        finished_at=bundle.finished_at,
        profile=configuration.profile,
        scenario=configuration.scenario,
        baseline=configuration.baseline,
        launches=configuration.launches,
        rounds=configuration.rounds,
        block_runs=configuration.block_runs,
        seed=configuration.seed,
        budget_ms=configuration.budget_ms,
        inputs=configuration.inputs,
        control=None
        if control is None
        else ControlFigures(
            entry=control.entry,
            ratio=control.ratio,
            low=control.low,
            high=control.high,
            verdict=control.verdict,
        ),
    )


def _evaluation(
    evaluation: Evaluation,
    results: Mapping[str, ModelResult],
    accuracies: Mapping[str, AccuracyFigure | None],
) -> ReportedEvaluation:
    models = []
    for name, result in results.items():
        if (accuracy := accuracies[name]) is not None:
            models.append(_evaluated(result, accuracy))
    data = evaluation.data
    return ReportedEvaluation(
        id=evaluation.id,
        name=shown(data.name),
        kind=data.kind,
        task=data.task,
        sha256=data.sha256,
        pictures=data.pictures,
        n=data.n,
        finished_at=evaluation.finished_at,
        label_sets=tuple(
            CoveredLabels(labels=each.labels, classes=each.classes, of=each.of, n=each.n)
            for each in evaluation.label_sets
        ),
        models=tuple(models),
    )


def _evaluated(result: ModelResult, accuracy: AccuracyFigure) -> EvaluatedModel:
    classification, detection = result.classification, result.detection
    if classification is not None:
        classes = [
            ClassFigure(name=shown(each.name), n=each.n, value=each.value, low=each.low, high=each.high)
            for each in classification.per_class
        ]
    else:
        assert detection is not None
        classes = [
            ClassFigure(name=shown(each.name), n=each.n, value=each.ap, low=None, high=None)
            for each in detection.per_class
        ]
    top5 = None if classification is None else classification.top5
    return EvaluatedModel(
        model=result.name,
        labels=result.labels,
        n=result.n,
        accuracy=accuracy,
        top5=None if top5 is None else top5.value,
        class_mean=None if classification is None else classification.macro.value,
        ece=None if classification is None else classification.calibration.ece,
        ap50=None if detection is None else detection.ap50,
        corrupted=None if result.corruptions is None else result.corruptions.mean,
        per_class=tuple(classes),
    )


def _title(bundle: Bundle) -> str:
    return f"{counted(len(bundle.models), 'model', 'models')} on {_machine(bundle)}"


def _machine(bundle: Bundle) -> str:
    machine = bundle.fingerprint.machine
    return f"{shown(machine.cpu_model)}, {counted(machine.cores, 'core', 'cores')}"


def _question(bundle: Bundle, evaluation: Evaluation | None) -> str:
    which = "Is this model" if len(bundle.models) == 1 else f"Which of these {len(bundle.models)} models is"
    if evaluation is None:
        return f"{which} worth its time and size on this machine?"
    pictures = f"for the pictures of '{shown(evaluation.data.name)}'"
    return f"{which} worth its time and size on this machine, {pictures}?"


def _answer(front: Front) -> str:
    """Describe a front in a sentence.

    The sentence names the most accurate, the fastest and the smallest models, and says how many are on the
    front.
    """
    known = {each.entry: each.accuracy.value for each in front.models if each.accuracy is not None}
    fastest = highest(front.models, lambda each: -each.p50_ms)
    smallest = highest(front.models, lambda each: -each.bytes)
    parts = []
    if known:
        best = highest(known, lambda entry: known[entry])
        parts.append(f"highest accuracy {joined(best)} ({known[best[0]]:.1%})")
    for what, models, figure in (
        ("lowest median latency", fastest, f"{fastest[0].p50_ms:.3g} ms"),
        ("smallest file", smallest, f"{smallest[0].bytes / 1e6:.3g} MB"),
    ):
        parts.append(f"{what} {joined([each.entry for each in models])} ({figure})")
    if not known:
        front_words = "no accuracy is known, so there is no front"
    else:
        on_front = sum(each.on_front is True for each in front.models)
        verb = "is" if on_front == 1 else "are"
        front_words = f"{on_front} of {len(known)} {verb} on the front"
        if len(known) < len(front.models):
            front_words += f", {len(front.models) - len(known)} of unknown accuracy"
    return f"{front.labels}: {', '.join(parts)}; {front_words}."


def _ms(nanoseconds: float) -> float:
    """Convert nanoseconds to milliseconds with six decimals."""
    return round(nanoseconds / 1e6, 6)
