"""Commands that train and compress networks of the Fashion-MNIST family; a killed one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from models.cli.options import (
    RUNS,
    DataDir,
    Device,
    Epochs,
    Limit,
    Name,
    Recipe,
    Run,
    Runs,
    Seed,
    Threads,
    Zoo,
    setting_of,
)
from models.zoo.files import NETWORKS

if TYPE_CHECKING:
    from models.architectures.designed import Design, DesignedNetwork


def train(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="e.g. fashion-ghost, or all")],
    seed: Seed = 0,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
    device: Device = "cpu",
) -> None:
    """Train networks of the family; goes on where it was stopped."""
    from models.architectures.fashion import DESIGNS, design_of
    from models.train.family import fresh, job_of
    from models.train.loop import train

    designs = {name: design_of(name) for name in (DESIGNS if names == ["all"] else names)}
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    for name, design in designs.items():
        outcome = train(fresh(design, seed), job_of(setting, name, design, seed))
        print(f"{name}: {_shown(outcome.accuracy)} on validation, {outcome.seconds / 60:.1f} min", flush=True)


def prune(
    name: Run,
    seed: Seed = 0,
    share: Annotated[
        list[float] | None, typer.Option(help="of the MACs, may be repeated; default: 0.3, 0.5 and 0.7")
    ] = None,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
    device: Device = "cpu",
) -> None:
    """Take channels out of a trained network and train it on."""
    from models.architectures.resized import shapes_of
    from models.compress.compression import read_compression
    from models.compress.prune import pruned
    from models.train.family import job_of
    from models.train.loop import train

    settings = read_compression().pruning
    network, _, parent = _finished(runs, name, seed)
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    for part in share or settings.shares:
        smaller = pruned(network, part)
        smaller_name = f"{name}-pruned-{round(100 * part)}"
        job = job_of(setting, smaller_name, network.design, seed)
        job = job.with_recipe(settings.of(setting.config, epochs), pruned=shapes_of(smaller), parent=parent)
        outcome = train(smaller, job)
        minutes = outcome.seconds / 60
        print(f"{smaller_name}: {_shown(outcome.accuracy)} on validation, {minutes:.1f} min", flush=True)


def _finished(
    runs: Path, name: str, seed: int, design: Design | None = None
) -> tuple[DesignedNetwork, Mapping[str, Any], str]:
    """Return a finished training's network and identity, and what names it and its weights, so that no other
    takes its place where it is gone on from. Raises as `trained` does."""
    from models.train.family import run_folder, trained, weights_digest

    network, identity = trained(run_folder(runs, name, seed), design)
    epochs, digest = identity["recipe"]["epochs"], weights_digest(network)
    return network, identity, f"{name}, seed {identity['seed']}, {epochs} epochs, weights {digest}"


def distill(
    name: Name,
    teacher: Annotated[list[str], typer.Option(metavar="MODEL", help="of the zoo; repeat for several")],
    zoo: Zoo = NETWORKS,
    seed: Annotated[
        list[int] | None, typer.Option(help="may be repeated; default: 0 to 4, with --trained 0")
    ] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="train the finished network on, not a new one")
    ] = False,
    only: Annotated[Literal["with", "without"] | None, typer.Option(help="only one of the two")] = None,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
    device: Device = "cpu",
) -> None:
    """Train a student of the family with a teacher, and without, seed by seed."""
    from dataclasses import replace

    from models.architectures.fashion import design_of
    from models.compress.compression import read_compression
    from models.compress.distill import TeacherCache, distilling, published
    from models.evaluate.teaching import ALONE, TAUGHT, TRAINED_ON
    from models.train import family
    from models.train.loop import train
    from models.zoo.card import read_cards

    design = design_of(name)
    compression = read_compression()
    settings, further = compression.distillation, compression.distillation_of_trained
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    cards = read_cards(zoo, teacher).values()
    teachers = [f"{card.name} {card.file.sha256[:16]}" for card in cards]
    cache = TeacherCache(
        runs / f"teacher-of-{name}",
        [published(zoo, card, threads) for card in cards],
        teachers,
        setting.train,
        setting.config,
        settings,
    )
    for number in seed or ([0] if trained else range(5)):
        for kind in ("with", "without") if only is None else (only,):
            run = f"{name}-{TAUGHT if kind == 'with' else ALONE}"
            if trained:
                network, _, parent = _finished(runs, name, number, design)
                job = family.job_of(setting, run + TRAINED_ON, design, number)
                job = job.with_recipe(further.of(setting.config, epochs), parent=parent)
            else:
                network, job = family.fresh(design, number), family.job_of(setting, run, design, number)
            job = replace(job, passes=cache.passes)
            if kind == "with":
                job = replace(
                    job,
                    identity={**job.identity, "teacher": teachers, "distillation": settings.model_dump()},
                    objective=distilling(cache, setting.config, settings),
                )
            outcome = train(network, job)
            print(f"{job.folder.name}: {_shown(outcome.accuracy)} on validation", flush=True)


def train_int8(
    name: Run,
    seed: Seed = 0,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
    device: Device = "cpu",
) -> None:
    """Train on while weights and activations are rounded to int8."""
    from models.architectures.folded import fold_batch_norms
    from models.compress.compression import read_compression
    from models.compress.quantization_aware import rounded
    from models.train.family import job_of
    from models.train.loop import train

    settings = read_compression().quantization_aware
    network, identity, parent = _finished(runs, name, seed)
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    fold_batch_norms(network)
    job = job_of(setting, f"{name}-rounded", network.design, seed).with_recipe(
        settings.of(setting.config, epochs), folded=True, pruned=identity.get("pruned"), parent=parent
    )
    with rounded(network):
        outcome = train(network, job)
    print(f"{name}-rounded: {_shown(outcome.accuracy)} on validation, rounded", flush=True)


def check_int8(
    name: Run,
    seed: Seed = 0,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
) -> None:
    """Say what static int8 loses on the validation images."""
    import numpy as np

    from models.compress.int8_check import check
    from models.train.family import run_folder, trained

    folder = run_folder(runs, name, seed)
    network, _ = trained(folder)
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit)
    spread = np.linspace(0, len(setting.train) - 1, min(512, len(setting.train))).astype(int)
    calibration = list(setting.train.inputs[spread].numpy()[:, None])
    images = list(setting.validation.inputs.numpy()[:, None])
    checked = check(network, calibration, images, setting.validation.classes.numpy())
    checked.keep(folder)
    print(f"{name}: {checked}")


def search(
    candidates: Annotated[
        int | None, typer.Option(help="how many in all; default: compression.toml's")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="where the picture of the front goes, .svg")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="where all candidates go")] = None,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
) -> None:
    """Search designs by accuracy and measured latency."""
    from dataclasses import replace

    from models.architectures.fashion import SEARCHED, design_of
    from models.compress import search as searching
    from models.compress.compression import read_compression
    from models.train.family import fresh
    from models.train.job import Job, Prepared
    from models.train.loop import train_without_keeping

    settings = read_compression().search
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit)
    config = setting.config.model_copy(update={"epochs": epochs or settings.epochs})
    images = Prepared(setting.train.inputs[: settings.images], setting.train.classes[: settings.images])
    folder = runs / "search"

    def judge(design: Design) -> float:
        job = Job(folder, {}, images, setting.validation, config)
        return train_without_keeping(fresh(design, 0), replace(job, seed=0))

    described = f"{config.epochs} epochs on {len(images)} images, {len(setting.validation)} to judge"
    judged = searching.search(folder, candidates or settings.candidates, judge, described)
    if json:
        searching.write_candidates(judged, json)
    if plot:
        from models.report.pictures import draw_front

        draw_front(judged, plot)
    for candidate in sorted((c for c in judged if c.best), key=lambda c: c.p50_ms):
        print(
            f"candidate {candidate.number}: {candidate.p50_ms * 1000:.0f} µs {candidate.accuracy:.2%} "
            f"{candidate.design.model_dump_json()}"
        )
    limit_ms = searching.p50_ms(design_of(settings.no_slower_than))
    chosen = searching.winner(judged, limit_ms)
    print(
        f"the winner, the best that is no slower than {settings.no_slower_than} ({limit_ms * 1000:.0f} µs), "
        f"is candidate {chosen.number}; for DESIGNS:\n    {SEARCHED!r}: {chosen.design!r},"
    )


def _shown(accuracy: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if accuracy is None else f"{accuracy:.2%}"
