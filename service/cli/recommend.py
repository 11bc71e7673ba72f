"""`weighin recommend`: recommend a model for a budget, by benchmarks of this or another kind of machine."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from models.zoo.card import Task
from models.zoo.display import shown
from service.bench.archive import BenchmarkArchive
from service.bench.bundle_file import read_bundle
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.advice import Advice, advise_from, advise_here, this_machine
from service.bench.recommend.evaluated import task_of
from service.bench.recommend.evidence import StoredBundle
from service.bench.recommend.recommend import Constraints, Fit
from service.bench.store import BenchmarkStore
from service.cli.evaluate.stored import stored_evaluation
from service.cli.output import (
    STANDARD_OUTPUT,
    JsonFile,
    check_target,
    console,
    print_whole,
    styled,
    write_json,
)
from service.cli.settings import settings_with
from service.errors import InvalidParameter
from service.evaluation.store import EvaluationStore
from service.inference.registry import Registry
from service.inference.runtimes.choice import runtime_choices
from service.storage.database import open_database


def recommend(
    p99_ms: Annotated[float | None, typer.Option(help="Maximum p99 in milliseconds")] = None,
    p90_ms: Annotated[float | None, typer.Option(help="Maximum p90 in milliseconds")] = None,
    p50_ms: Annotated[float | None, typer.Option(help="Maximum median in milliseconds")] = None,
    max_mb: Annotated[float | None, typer.Option(help="Maximum file size in megabytes (10^6 bytes)")] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(help="Minimum top-1 accuracy (detectors: average precision), 0 to 1"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label set [default: of --data, else of the default model]")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="image-classification or object-detection [default: task of --data, else classification]"
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Id of an evaluation (`weighin evaluate`); rank by the accuracy on its pictures"),
    ] = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundle", help="Bundle that was measured on the target device, repeatable"),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(help="Kind of machine to recommend for, as the output names it [default: this machine]"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Recommend a model for a budget, from benchmarks of this machine or from bundle files.

    The exit code is 2 if no model fits, or if nothing was measured.
    """
    if json_file is not None:
        check_target(json_file, "--json", bundles or ())
    max_bytes = None if max_mb is None else _bytes(max_mb)
    settings = settings_with()
    with contextlib.ExitStack() as stack:
        if data is not None or not bundles:  # if only bundles are given, no database is needed
            engine = open_database(settings.database_url, settings.data_dir)
            stack.callback(engine.dispose)
        evaluation = None if data is None else stored_evaluation(EvaluationStore(engine), data)
        constraints = Constraints(
            p50_ms, p90_ms, p99_ms, max_bytes, min_accuracy, labels, task_of(evaluation, _task(task))
        )
        choices = runtime_choices(settings)
        registry = Registry(
            settings.model_dirs,
            settings.default_model,
            default_detector=settings.default_detector,
            added=settings.added_models,
            choices=choices,
        )
        if bundles:
            stored = [StoredBundle(path.name, read_bundle(path)) for path in bundles]
            advice = advise_from(constraints, stored, registry, evaluation, machine)
        else:
            stored, unreadable = BenchmarkArchive(BenchmarkStore(engine)).newest_bundles()
            here = this_machine()
            advice = advise_here(constraints, registry, stored, unreadable, here, evaluation, machine)
    if json_file is not None:
        from service.api.recommend import answer  # imported here, because the import takes half a second

        write_json(json_file, answer(advice, data))
    if json_file != STANDARD_OUTPUT:
        _show(console(soft_wrap=True), advice)
    if advice.recommendation.recommended is None:
        raise typer.Exit(2)


def _task(text: str | None) -> Task | None:
    """Return the task that `text` names, or None if `text` is None.

    Raises InvalidParameter for an unknown task.
    """
    if text is None:
        return None
    for task in get_args(Task):
        if task == text:
            return cast(Task, task)
    raise InvalidParameter(f"--task '{text[:100]}': unknown (allowed: {', '.join(get_args(Task))})")


def _bytes(megabytes: float) -> int:
    """Convert megabytes to bytes. Invalid numbers become 0, which `Constraints` refuses."""
    try:
        return int(megabytes * 1e6)
    except (OverflowError, ValueError):  # inf and nan
        return 0


def _show(out: Console, advice: Advice) -> None:
    recommendation = advice.recommendation
    version = advice.machine.software.runtimes.get("onnxruntime", "?")
    out.print(f"For {shown(advice.name)}, onnxruntime {version}, labels {recommendation.labels}:")
    name = recommendation.recommended or "no recommendation"
    out.print(styled((name, "bold"), f": {recommendation.why}"))
    out.print(f"Accuracies: {shown(recommendation.accuracy_of)}")
    if recommendation.fits:
        print_whole(out, _fits(recommendation.fits))
        for fit in recommendation.fits:
            for note in fit.notes:
                out.print(f"  {fit.facts.name}: {shown(note)}")
    if recommendation.pareto:
        names = ", ".join(candidate.measured.name for candidate in recommendation.pareto)
        out.print(f"Pareto front (accuracy, latency, bytes): {names}")
    for dominated in recommendation.dominated:
        out.print(f"  {dominated.model}: {shown(dominated.reason)}")
    if recommendation.rejected:
        out.print("Rejected:")
        by_reason: dict[str, list[str]] = {}
        for rejected in recommendation.rejected:
            by_reason.setdefault(rejected.reason, []).append(rejected.model)
        for reason, models in by_reason.items():
            out.print(f"  {', '.join(models)}: {shown(reason)}")
    if advice.others:
        out.print("Other machines with benchmarks (--machine):")
        for other in advice.others:
            name = other.recommendation.recommended or "no recommendation"
            out.print(f"  {shown(other.name)}: {name}: {shown(other.recommendation.why)}")
    for bundle, reason in advice.evidence.unused.items():
        out.print(f"Benchmark {bundle} not used: {shown(reason)}")
    if recommendation.run is not None:
        out.print(f"To measure the missing models: {recommendation.run}")
    if recommendation.evaluate is not None:
        out.print(f"To evaluate the missing models: {shown(recommendation.evaluate)}")


def _fits(fits: tuple[Fit, ...]) -> Table:
    table = Table("fits", box=None, pad_edge=False)
    ranked = ["ranked by"] if any(_ranked(fit) for fit in fits) else []
    for heading in (*ranked, "accuracy", "p50 ms", "p90 ms", "p99 ms", "runs", "MB", "confidence"):
        table.add_column(heading, justify="right")
    for fit in fits:
        measured = fit.measured
        bounds = [None if measured is None else measured.percentile(fraction) for fraction in (0.90, 0.99)]
        table.add_row(
            fit.facts.name,
            *_ranked(fit),
            _accuracy(fit.accuracy),
            "" if measured is None else f"{measured.p50_ms:.2f}",
            *("" if bound is None else f"<= {bound.bound_ns / 1e6:.2f}" for bound in bounds),
            "" if measured is None else str(measured.count),
            f"{fit.facts.bytes / 1e6:.1f}",
            "" if fit.confidence is None else _percent(fit.confidence),
        )
    return table


def _ranked(fit: Fit) -> list[str]:
    """Return a list with the text of the column "ranked by" for a fit, or an empty list if it has no text.

    The column shows the accuracy by which models are ranked, if this is not the one in the column "accuracy".
    If it is the same one, no fit has a text, and the table has no column "ranked by".
    """
    if fit.accuracy is None or fit.accuracy.ranked is None:
        return []
    return [f"{fit.accuracy.ranked:.1%}"]


def _accuracy(accuracy: AccuracyEstimate | None) -> str:
    """Format an accuracy.

    If it was measured on the user's pictures, add the interval, because there may be few pictures.
    """
    if accuracy is None:
        return "?"
    if accuracy.kind != "evaluated":
        return f"{accuracy.value:.1%}"
    return f"{accuracy.value:.1%} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _percent(confidence: float) -> str:
    """Format a confidence in percent, but never round it up to 100 %."""
    return "> 99.99%" if confidence > 0.9999 else f"{confidence:.2%}"
