"""`weighin evaluate`: accuracy of models on your own labelled pictures."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from models.zoo.display import comma_list, counted
from service.cli.evaluate.stored import keep
from service.cli.evaluate.table import print_evaluation
from service.cli.output import (
    STANDARD_OUTPUT,
    JsonFile,
    check_target,
    console,
    say,
    stop_on_signals,
    write_json,
)
from service.cli.progress import progress_bar
from service.cli.settings import settings_with
from service.errors import InvalidDataset, InvalidParameter
from service.evaluation.assemble import assemble
from service.evaluation.choose import Chosen, choose
from service.evaluation.classes import mapping_for
from service.evaluation.dataset import Dataset
from service.evaluation.progress import Progress
from service.evaluation.readers.read import read_dataset
from service.evaluation.result import Evaluation, to_json
from service.evaluation.run import Run, Runner, listing_changes
from service.inference.cpu import core_budget
from service.inference.registry import Registry

_NO_DATA = 2
"""Exit code if nothing can be evaluated. Wrong options have the same exit code."""
_MOST_NAMES = 3
"""Maximum number of names in a note."""


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with a folder of pictures per class, CSV file with path and label, COCO JSON file, "
            "or folder with Pascal VOC annotations"
        ),
    ],
    models: Annotated[
        str | None, typer.Option(help="Names, separated by commas [default: models that know the classes]")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="File with lines CLASS = LABEL for classes whose names are not labels")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the paths in a CSV, COCO or VOC file are relative to")
    ] = None,
    corrupt: Annotated[
        bool, typer.Option("--corrupt", help="Also classify noisy, blurred, pale, bright, JPEG versions")
    ] = False,
    json_file: JsonFile = None,
    url: Annotated[
        str | None, typer.Option(help="Store at the running service with this URL [default: store here]")
    ] = None,
) -> None:
    """Evaluate models on your own labelled pictures: accuracy with intervals, and tested differences.

    To continue an interrupted evaluation, repeat the command. The exit code is 2 if nothing can be evaluated.
    """
    try:
        _evaluate(data, models, mapping, images, corrupt, json_file, url)
    except InvalidDataset as error:
        say(f"weighin: {error}", error=True)
        raise typer.Exit(_NO_DATA) from None


def _evaluate(
    data: Path,
    models: str | None,
    mapping_file: Path | None,
    images: Path | None,
    corrupt: bool,
    json_file: Path | None,
    url: str | None,
) -> None:
    if json_file is not None:
        check_target(json_file, "--json", [data] if mapping_file is None else [data, mapping_file])
    settings = settings_with()
    started_at = datetime.now(UTC)
    dataset = read_dataset(data, images)
    if corrupt and dataset.task == "object-detection":
        raise InvalidParameter(f"--corrupt: {dataset.name} has boxes (allowed: pictures with a class each)")
    mapping = mapping_for(mapping_file, dataset.name, dataset.class_names)
    registry = Registry(
        settings.model_dirs,
        settings.default_model,
        default_detector=settings.default_detector,
        added=settings.added_models,
    )
    chosen = choose(registry, dataset, mapping, None if models is None else comma_list(models))
    with Progress(settings.data_dir / "evaluations", dataset.path) as progress:
        runner = Runner(
            dataset,
            chosen.subjects,
            progress,
            threads=settings.threads or core_budget(),
            max_pixels=settings.max_pixels,
            corruptions=corrupt,
        )
        run, signalled = _run(runner, dataset, chosen)
        if progress.problem is not None:
            say(f"progress is not kept: {progress.problem}", error=True)
        if run.interrupted:
            _say_interrupted(run, dataset, kept=progress.problem is None)
            raise typer.Exit(128 + signalled)
        notes = _changes(dataset, run, data, images)
        assembled = assemble(dataset, mapping, chosen, runner, run, started_at=started_at, notes=notes)
        evaluation = assembled.evaluation
        if json_file != STANDARD_OUTPUT:
            print_evaluation(console(), evaluation, {**chosen.left_out, **assembled.left_out})
        written = json_file is None or _written(json_file, evaluation)
        kept = keep(evaluation, settings, url)
        say(kept.where, error=True)
        progress.remove()
    if kept.file is not None or not written:
        raise typer.Exit(1)


def _run(runner: Runner, dataset: Dataset, chosen: Chosen) -> tuple[Run, int]:
    """Run the models with a progress display.

    Return the run, and the number of the signal that interrupted it, or 0 if it was not interrupted.
    """
    with stop_on_signals() as (stop, received), progress_bar() as bar:
        count = len(chosen.subjects)
        task = bar.add_task(
            f"{dataset.name}: {counted(count, 'model', 'models')}", total=len(dataset.pictures)
        )
        run = runner.run(lambda done: bar.update(task, completed=done), stop)
    return run, received[0] if received else 0


def _say_interrupted(run: Run, dataset: Dataset, *, kept: bool) -> None:
    state = "kept: repeat the command to go on" if kept else "not kept"
    say(f"interrupted: {len(run.seen)} of {len(dataset.pictures)} pictures done and {state}", error=True)


def _changes(dataset: Dataset, run: Run, data: Path, images: Path | None) -> list[str]:
    """Return a note for each way in which the data set changed while it was evaluated."""
    notes = []
    changed = [seen.picture.key for seen in run.seen if seen.changed]
    if changed:
        notes.append(f"changed while they were evaluated, counted as they were read: {_first(changed)}")
    try:
        appeared, relabelled = listing_changes(dataset, read_dataset(data, images))
    except InvalidDataset as error:
        return [*notes, f"the data set cannot be read again: {error}"]
    if appeared:
        notes.append(f"appeared while the others were evaluated, not counted: {_first(appeared)}")
    if relabelled:
        notes.append(f"relabelled meanwhile, counted with the earlier label: {_first(relabelled)}")
    return notes


def _first(names: list[str]) -> str:
    """Join the first names, and say how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _written(path: Path, evaluation: Evaluation) -> bool:
    """Write the evaluation and return True. If it cannot be written, print why and return False."""
    try:
        write_json(path, to_json(evaluation))
    except InvalidParameter as error:
        say(f"weighin: {error}", error=True)
        return False
    return True
