"""`weighin compare PHOTO ...`: compare models on photos, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from models.zoo.display import comma_list, shown
from service.cli.output import STANDARD_OUTPUT, JsonFile, check_target, console, say, write_json
from service.cli.settings import settings_with
from service.errors import WeighinError, error_words
from service.inference.compare import ComparedModel, Comparer, Comparison
from service.inference.cpu import core_budget
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.inference.runtimes.choice import runtime_choices
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder


def compare_photos(
    photos: Annotated[list[Path], typer.Argument(help="Image files", metavar="PHOTO...")],
    names: Annotated[
        str | None, typer.Option("--models", help="Names, separated by commas [default: all comparable]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Model that others are compared with [default: the default model]")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Measured runs per model, 1 to 50")] = 20,
    json_file: JsonFile = None,
) -> None:
    """Compare models on photos, without a server: predictions, latency, speed-up."""
    if json_file is not None:
        check_target(json_file, "--json", photos)
    settings = settings_with()
    threads = settings.threads or core_budget()
    choices = runtime_choices(settings)
    registry = Registry(
        settings.model_dirs, settings.default_model, added=settings.added_models, choices=choices
    )
    registry.load()
    pool = CorePool(threads, settings.max_waiting)
    comparer = Comparer(
        registry,
        pool,
        Recorder(None, Metrics({})),
        max_pixels=settings.max_pixels,
        budget_s=settings.compare_budget_s,
    )
    plan = comparer.plan(
        comma_list(names or "") or None,
        baseline,
        mix_labels=names is not None,
        mix_tasks=names is not None,
        top_k=None,
        repeat=repeat,
    )

    async def compare(data: bytes) -> Comparison:
        return await comparer.run(plan, data, Deadline.after(60))

    compared: list[tuple[Path, Comparison]] = []
    failed: dict[Path, str] = {}
    for photo in photos:
        try:
            comparison = asyncio.run(compare(photo.read_bytes()))
        except (WeighinError, OSError) as error:
            failed[photo] = error.detail if isinstance(error, WeighinError) else error_words(error)
            say(f"{photo}: {failed[photo]}", error=True)
            continue
        compared.append((photo, comparison))
        if json_file != STANDARD_OUTPUT:
            _show(photo, comparison)
    pool.close()
    if json_file is not None:
        from service.cli.schemas import Comparisons  # imported here, because it takes half a second

        comparisons = Comparisons.of(compared, failed)
        write_json(json_file, comparisons.model_dump_json(indent=2, exclude_unset=True) + "\n")
    if failed:
        raise typer.Exit(1)


def _show(photo: Path, comparison: Comparison) -> None:
    say(_title(photo, comparison))
    classifiers = [result for result in comparison.results if result.objects is None]
    detectors = [result for result in comparison.results if result.objects is not None]
    for results in filter(None, (classifiers, detectors)):
        console().print(_table(results, comparison))


def _title(photo: Path, comparison: Comparison) -> str:
    image = comparison.image
    return (
        f"{shown(photo.name)}: {image.width} x {image.height} {image.format}, "
        f"{comparison.results[0].latency.count} runs each, one thread"
    )


def _table(results: Sequence[ComparedModel], comparison: Comparison) -> Table:
    """Return the table of classifiers, which have predictions, or of detectors, which have objects."""
    if results[0].objects is None:
        table = Table("model", "top-1", box=None, pad_edge=False)
        table.add_column("probability", justify="right")
    else:
        table = Table("model", box=None, pad_edge=False)
        for heading in ("objects", "found by all", "by it alone"):
            table.add_column(heading, justify="right")
    for heading in ("p50 ms", "speed-up", "MB", "accuracy"):
        table.add_column(heading, justify="right")
    for result in results:
        card = result.model.card
        mark = " (baseline)" if card.name == comparison.baseline else ""
        table.add_row(
            card.name + mark,
            *_found(result, len(results), comparison),
            f"{result.latency.p50_ns / 1e6:.2f}",
            f"{result.speedup:.2f}x",
            f"{card.file.bytes / 1e6:.1f}",
            "" if card.accuracy is None else f"{card.accuracy.value:.1%}",
        )
    return table


def _found(result: ComparedModel, detectors: int, comparison: Comparison) -> tuple[str, ...]:
    """Return the cells of one model: a classifier's best prediction, or a detector's numbers of objects.

    The numbers count all objects that the detector found, the objects that every detector found, and the
    objects that only this detector found.
    """
    if result.predictions is not None:
        best = result.predictions[0]
        return shown(best.label), f"{best.probability:.1%}"
    own = [found for found in comparison.objects or () if result.model.name in found.found_by]
    by_all = sum(len(found.found_by) == detectors for found in own)
    alone = sum(len(found.found_by) == 1 for found in own)
    return str(len(own)), str(by_all), str(alone)
