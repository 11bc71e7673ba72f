"""`weighin compare PHOTO ...`: compare models on photos, without a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.output import console, say
from service.cli.settings import settings_with
from service.errors import WeighinError
from service.inference.compare import Comparer, Comparison
from service.inference.cpu import core_budget
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.text.display import comma_list, shown


def compare_photos(
    photos: Annotated[list[Path], typer.Argument(help="Image files", metavar="PHOTO...")],
    names: Annotated[
        str | None, typer.Option("--models", help="Names, separated by commas [default: all comparable]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Model that others are compared with [default: the default model]")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Measured runs per model, 1 to 50")] = 20,
) -> None:
    """Compare models on photos, without a server: predictions, latency, speed-up."""
    out = console()
    settings = settings_with()
    registry = Registry(settings.model_dirs, settings.default_model, added=settings.added_models)
    registry.load()
    pool = CorePool(settings.threads or core_budget(), settings.max_waiting)
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
        top_k=1,
        repeat=repeat,
    )

    async def compare(data: bytes) -> Comparison:
        return await comparer.run(plan, data, Deadline.after(60))

    failed = False
    for photo in photos:
        try:
            comparison = asyncio.run(compare(photo.read_bytes()))
        except (WeighinError, OSError) as error:
            failed = True
            reason = error.detail if isinstance(error, WeighinError) else error.strerror
            say(f"{photo}: {reason}", error=True)
            continue
        out.print(_table(photo, comparison))
    pool.close()
    if failed:
        raise typer.Exit(1)


def _table(photo: Path, comparison: Comparison) -> Table:
    image = comparison.image
    table = Table(
        title=f"{shown(photo.name)}: {image.width} x {image.height} {image.format}, "
        f"{comparison.results[0].latency.count} runs each, one thread",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("model")
    table.add_column("top-1")
    for heading in ("probability", "p50 ms", "speed-up", "MB", "accuracy"):
        table.add_column(heading, justify="right")
    for result in comparison.results:
        card = result.model.card
        mark = " (baseline)" if card.name == comparison.baseline else ""
        table.add_row(
            card.name + mark,
            shown(result.predictions[0].label),
            f"{result.predictions[0].probability:.1%}",
            f"{result.latency.p50_ns / 1e6:.2f}",
            f"{result.speedup:.2f}x",
            f"{card.file.bytes / 1e6:.1f}",
            "" if card.accuracy is None else f"{card.accuracy.value:.1%}",
        )
    return table
