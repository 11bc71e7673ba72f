"""Commands that train and compress networks of the Fashion-MNIST family; training is resumable."""

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
    """Train networks of the family; resumes an interrupted training."""
    from models.architectures.fashion import DESIGNS, design_of
    from models.train.family import job_of, new_network
    from models.train.loop import train

    designs = {name: design_of(name) for name in (DESIGNS if names == ["all"] else names)}
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    for name, design in designs.items():
        outcome = train(new_network(design, seed), job_of(setting, name, design, seed))
        minutes = outcome.seconds / 60
        print(f"{name}: {_percent(outcome.accuracy)} on validation, {minutes:.1f} min", flush=True)


def prune(
    name: Run,
    seed: Seed = 0,
    share: Annotated[
        list[float] | None,
        typer.Option(help="share of the MACs to remove; repeatable; default: 0.3, 0.5 and 0.7"),
    ] = None,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
    device: Device = "cpu",
) -> None:
    """Remove channels from a trained network, then fine-tune it."""
    from models.architectures.resized import shapes_of
    from models.compress.compression import read_compression
    from models.compress.prune import pruned
    from models.train.family import job_of
    from models.train.loop import train

    settings = read_compression().pruning
    network, _, parent = _finished(runs, name, seed)
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    for removed in share or settings.shares:
        smaller = pruned(network, removed)
        smaller_name = f"{name}-pruned-{round(100 * removed)}"
        job = job_of(setting, smaller_name, network.design, seed)
        job = job.with_recipe(settings.of(setting.config, epochs), pruned=shapes_of(smaller), parent=parent)
        outcome = train(smaller, job)
        minutes = outcome.seconds / 60
        print(f"{smaller_name}: {_percent(outcome.accuracy)} on validation, {minutes:.1f} min", flush=True)


def _finished(
    runs: Path, name: str, seed: int, design: Design | None = None
) -> tuple[DesignedNetwork, Mapping[str, Any], str]:
    """Return a finished training's network, its identity and one line that describes the training.

    The line has a digest of the weights, so that an old line shows whether the network has been trained again
    since then. The errors are those of `load_trained`.
    """
    from models.train.family import load_trained, run_folder, weights_digest

    network, identity = load_trained(run_folder(runs, name, seed), design)
    epochs, digest = identity["recipe"]["epochs"], weights_digest(network)
    return network, identity, f"{name}, seed {identity['seed']}, {epochs} epochs, weights {digest}"


def distill(
    name: Name,
    teacher: Annotated[
        list[str], typer.Option(metavar="MODEL", help="teacher, a model of the zoo; repeatable")
    ],
    zoo: Zoo = NETWORKS,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="seed of a training; repeatable; default: 0 to 4; with --trained: 0"),
    ] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="fine-tune the trained network instead of a new one")
    ] = False,
    only: Annotated[
        Literal["with", "without"] | None,
        typer.Option(help="train only with or only without the teacher; default: both"),
    ] = None,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
    device: Device = "cpu",
) -> None:
    """Train a student with and without a teacher, for each seed."""
    from dataclasses import replace

    from models.architectures.fashion import design_of
    from models.compress.compression import read_compression
    from models.compress.distill import TeacherCache, distillation_loss, zoo_teacher
    from models.evaluate.teaching import ALONE, DISTILLED, FINE_TUNED
    from models.train import family
    from models.train.loop import train
    from models.zoo.card import read_cards

    design = design_of(name)
    compression = read_compression()
    settings, fine_tuning = compression.distillation, compression.distillation_of_trained
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    cards = read_cards(zoo, teacher).values()
    teachers = [f"{card.name} {card.file.sha256[:16]}" for card in cards]
    cache = TeacherCache(
        runs / f"teacher-of-{name}",
        [zoo_teacher(zoo, card, threads) for card in cards],
        teachers,
        setting.train,
        setting.config,
        settings,
    )
    for number in seed or ([0] if trained else range(5)):
        for kind in ("with", "without") if only is None else (only,):
            run = f"{name}-{DISTILLED if kind == 'with' else ALONE}"
            if trained:
                network, _, parent = _finished(runs, name, number, design)
                job = family.job_of(setting, run + FINE_TUNED, design, number)
                job = job.with_recipe(fine_tuning.of(setting.config, epochs), parent=parent)
            else:
                network = family.new_network(design, number)
                job = family.job_of(setting, run, design, number)
            job = replace(job, passes=cache.passes)
            if kind == "with":
                job = replace(
                    job,
                    identity={**job.identity, "teacher": teachers, "distillation": settings.model_dump()},
                    objective=distillation_loss(cache, setting.config, settings),
                )
            outcome = train(network, job)
            print(f"{job.folder.name}: {_percent(outcome.accuracy)} on validation", flush=True)


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
    """Fine-tune with weights and activations rounded to int8."""
    from models.architectures.folded import fold_batch_norms
    from models.compress.compression import read_compression
    from models.compress.quantization_aware import fake_quantization
    from models.train.family import job_of
    from models.train.loop import train

    settings = read_compression().quantization_aware
    network, identity, parent = _finished(runs, name, seed)
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit, device)
    fold_batch_norms(network)
    job = job_of(setting, f"{name}-rounded", network.design, seed).with_recipe(
        settings.of(setting.config, epochs), folded=True, pruned=identity.get("pruned"), parent=parent
    )
    with fake_quantization(network):
        outcome = train(network, job)
    print(f"{name}-rounded: {_percent(outcome.accuracy)} on validation, rounded", flush=True)


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
    """Measure the accuracy that static int8 loses on validation images."""
    import numpy as np

    from models.compress.int8_check import check
    from models.train.family import load_trained, run_folder

    folder = run_folder(runs, name, seed)
    network, _ = load_trained(folder)
    setting = setting_of(data_dir, runs, recipe, epochs, threads, limit)
    indices = np.linspace(0, len(setting.train) - 1, min(512, len(setting.train))).astype(int)
    calibration = list(setting.train.inputs[indices].numpy()[:, None])
    images = list(setting.validation.inputs.numpy()[:, None])
    result = check(network, calibration, images, setting.validation.classes.numpy())
    result.save(folder)
    print(f"{name}: {result}")


def search(
    candidates: Annotated[
        int | None, typer.Option(help="number of candidates in all; default: compression.toml's")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="file to draw the Pareto front to, .svg")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="file to write all candidates to")] = None,
    remeasure: Annotated[
        Path | None,
        typer.Option(help="file written by --json: measure its candidates again and train nothing"),
    ] = None,
    data_dir: DataDir = None,
    runs: Runs = RUNS,
    recipe: Recipe = None,
    epochs: Epochs = None,
    threads: Threads = 2,
    limit: Limit = None,
) -> None:
    """Search for designs that are accurate and fast on this machine."""
    from dataclasses import replace

    from models.architectures.fashion import SEARCHED, design_of
    from models.compress import search as searching
    from models.compress.compression import read_compression
    from models.train.family import new_network
    from models.train.job import Job, Prepared
    from models.train.loop import train_without_saving

    settings = read_compression().search
    if remeasure:
        judged = searching.measured_again(remeasure)
    else:
        setting = setting_of(data_dir, runs, recipe, epochs, threads, limit)
        config = setting.config.model_copy(update={"epochs": epochs or settings.epochs})
        images = Prepared(setting.train.inputs[: settings.images], setting.train.classes[: settings.images])
        folder = runs / "search"

        def judge(design: Design) -> float:
            job = Job(folder, {}, images, setting.validation, config)
            return train_without_saving(new_network(design, 0), replace(job, seed=0))

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
    winner = searching.winner(judged, limit_ms)
    print(
        f"winner, the most accurate candidate no slower than {settings.no_slower_than} "
        f"({limit_ms * 1000:.0f} µs): candidate {winner.number}; for DESIGNS:\n"
        f"    {SEARCHED!r}: {winner.design!r},"
    )


def _percent(accuracy: float | None) -> str:
    """Return an accuracy (0 to 1) as text in percent, or a dash if it is None."""
    return "–" if accuracy is None else f"{accuracy:.2%}"
