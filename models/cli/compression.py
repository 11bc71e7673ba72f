"""The commands of `python -m models` that compress the student of the family; a killed one goes on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from models.cli.training import setting_of, shown, with_data, with_device
from models.zoo.files import NETWORKS, networks_in


def add(commands: Any) -> None:
    """Add the commands to those of `python -m models`."""
    prune = commands.add_parser("prune", help="take channels out of a trained network and train it on")
    prune.add_argument("name", metavar="RUN", help="a training's name, e.g. fashion-inverted-residual-se")
    prune.add_argument("--seed", type=int, default=0)
    prune.add_argument("--share", type=float, action="append", help="of the MACs; default: 0.3, 0.5 and 0.7")
    with_data(prune)
    with_device(prune)
    prune.set_defaults(run=_prune)

    distill = commands.add_parser("distill", help="train a student with a teacher, and without, seed by seed")
    distill.add_argument("name", metavar="NAME", help="the student, a network of the family")
    distill.add_argument(
        "--teacher", action="append", required=True, metavar="MODEL", help="of the zoo; repeat for several"
    )
    distill.add_argument("--zoo", type=networks_in, default=NETWORKS, help="where the teachers are")
    distill.add_argument(
        "--seed", type=int, action="append", help="may be repeated; default: 0 to 4, with --trained 0"
    )
    distill.add_argument(
        "--trained", action="store_true", help="train the finished network on, not a new one"
    )
    distill.add_argument("--only", choices=("with", "without"), help="only one of the two")
    with_data(distill)
    with_device(distill)
    distill.set_defaults(run=_distill)

    aware = commands.add_parser(
        "train-int8", help="train on while weights and activations are rounded to int8"
    )
    aware.add_argument("name", metavar="RUN", help="a training's name")
    aware.add_argument("--seed", type=int, default=0)
    with_data(aware)
    with_device(aware)
    aware.set_defaults(run=_train_int8)

    check = commands.add_parser(
        "check-int8", help="what static int8 loses on the images kept back to choose on"
    )
    check.add_argument("name", metavar="RUN", help="a training's name")
    check.add_argument("--seed", type=int, default=0)
    with_data(check)
    check.set_defaults(run=_check_int8)

    search = commands.add_parser("search", help="search designs by accuracy and measured latency")
    search.add_argument("--candidates", type=int, help="how many in all; default: compression.toml's")
    search.add_argument("--plot", type=Path, help="where the picture of the front goes, .svg")
    search.add_argument("--json", type=Path, help="where all candidates go")
    with_data(search)
    search.set_defaults(run=_search)


def _prune(options: argparse.Namespace) -> None:
    from models.architectures.resized import shapes_of
    from models.compress.compression import read_compression
    from models.compress.prune import pruned
    from models.train.family import job_of, run_folder, trained
    from models.train.loop import train

    settings = read_compression().pruning
    if options.epochs is not None:
        settings = settings.model_copy(update={"epochs": options.epochs})
    network, identity = trained(run_folder(options.runs, options.name, options.seed))
    setting = setting_of(options)
    for share in options.share or settings.shares:
        smaller = pruned(network, share)
        name = f"{options.name}-pruned-{round(100 * share)}"
        job = job_of(setting, name, network.design, options.seed)
        job = job.with_recipe(
            settings.of(setting.config),
            pruned=shapes_of(smaller),
            parent=_parent(network, identity, options.name),
        )
        outcome = train(smaller, job)
        print(f"{name}: {shown(outcome.accuracy)} on validation, {outcome.seconds / 60:.1f} min", flush=True)


def _parent(network: Any, identity: Any, name: str) -> str:
    """A training that is gone on from, and its weights, so that no other takes its place."""
    from models.train.family import weights_digest

    digest = weights_digest(network)
    return f"{name}, seed {identity['seed']}, {identity['recipe']['epochs']} epochs, weights {digest}"


def _distill(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from models.architectures.fashion import design_of
    from models.compress.compression import read_compression
    from models.compress.distill import distilling
    from models.evaluate.teaching import ALONE, TAUGHT, TRAINED_ON
    from models.train.family import fresh, job_of, run_folder, trained
    from models.train.loop import train

    design = design_of(options.name)
    compression = read_compression()
    settings, further = compression.distillation, compression.distillation_of_trained
    if options.epochs is not None:
        further = further.model_copy(update={"epochs": options.epochs})
    setting = setting_of(options)
    cache, teachers = _asked(options, setting, settings)
    for seed in options.seed or ([0] if options.trained else range(5)):
        for kind in ("with", "without") if options.only is None else (options.only,):
            name = f"{options.name}-{TAUGHT if kind == 'with' else ALONE}"
            if options.trained:
                network, identity = trained(run_folder(options.runs, options.name, seed), design)
                job = job_of(setting, name + TRAINED_ON, design, seed)
                job = job.with_recipe(
                    further.of(setting.config), parent=_parent(network, identity, options.name)
                )
            else:
                network, job = fresh(design, seed), job_of(setting, name, design, seed)
            job = replace(job, passes=cache.passes)
            if kind == "with":
                job = replace(
                    job,
                    identity={**job.identity, "teacher": teachers, "distillation": settings.model_dump()},
                    objective=distilling(cache, setting.config, settings),
                )
            outcome = train(network, job)
            print(f"{job.folder.name}: {shown(outcome.accuracy)} on validation", flush=True)


def _asked(options: argparse.Namespace, setting: Any, settings: Any) -> tuple[Any, list[str]]:
    """What the teachers of those options say, and which they are."""
    from models.compress.distill import TeacherCache, published
    from models.zoo.card import read_cards

    cards = read_cards(options.zoo, options.teacher).values()
    identities = [f"{card.name} {card.file.sha256[:16]}" for card in cards]
    teachers = [published(options.zoo, card, options.threads) for card in cards]
    folder = options.runs / f"teacher-of-{options.name}"
    cache = TeacherCache(folder, teachers, identities, setting.learn, setting.config, settings)
    return cache, identities


def _train_int8(options: argparse.Namespace) -> None:
    from models.architectures.folded import fold_batch_norms
    from models.compress.compression import read_compression
    from models.compress.quantization_aware import rounded
    from models.train.family import job_of, run_folder, trained
    from models.train.loop import train

    settings = read_compression().quantization_aware
    if options.epochs is not None:
        settings = settings.model_copy(update={"epochs": options.epochs})
    network, identity = trained(run_folder(options.runs, options.name, options.seed))
    setting = setting_of(options)
    parent = _parent(network, identity, options.name)
    fold_batch_norms(network)
    name = f"{options.name}-rounded"
    job = job_of(setting, name, network.design, options.seed)
    job = job.with_recipe(
        settings.of(setting.config),
        folded=True,
        pruned=identity.get("pruned"),
        parent=parent,
    )
    with rounded(network):
        outcome = train(network, job)
    print(f"{name}: {shown(outcome.accuracy)} on validation, rounded", flush=True)


def _check_int8(options: argparse.Namespace) -> None:
    import numpy as np

    from models.compress.int8_check import check
    from models.train.family import run_folder, trained

    folder = run_folder(options.runs, options.name, options.seed)
    network, _ = trained(folder)
    setting = setting_of(options)
    spread = np.linspace(0, len(setting.learn) - 1, min(512, len(setting.learn))).astype(int)
    calibration = list(setting.learn.inputs[spread].numpy()[:, None])
    images = list(setting.choose.inputs.numpy()[:, None])
    found = check(network, calibration, images, setting.choose.classes.numpy())
    found.keep(folder)
    print(f"{options.name}: {found}")


def _search(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from models.architectures.fashion import SEARCHED, design_of
    from models.compress.compression import read_compression
    from models.compress.search import p50_ms, search, winner, write_candidates
    from models.compress.search_picture import draw_front
    from models.train.family import fresh
    from models.train.job import Job, Prepared
    from models.train.loop import train_without_keeping

    settings = read_compression().search
    setting = setting_of(options)
    config = setting.config.model_copy(update={"epochs": options.epochs or settings.epochs})
    learn = Prepared(setting.learn.inputs[: settings.images], setting.learn.classes[: settings.images])

    def judge(design: Any) -> float:
        job = Job(options.runs / "search", {}, learn, setting.choose, config)
        return train_without_keeping(fresh(design, 0), replace(job, seed=0))

    folder = options.runs / "search"
    training = f"{config.epochs} epochs on {len(learn)} images, {len(setting.choose)} to judge"
    candidates = search(folder, options.candidates or settings.candidates, judge, training)
    if options.json:
        write_candidates(candidates, options.json)
    if options.plot:
        draw_front(candidates, options.plot)
    for candidate in sorted((c for c in candidates if c.best), key=lambda c: c.p50_ms):
        print(
            f"candidate {candidate.number}: {candidate.p50_ms * 1000:.0f} µs {candidate.accuracy:.2%} "
            f"{candidate.design.model_dump_json()}"
        )
    limit = p50_ms(design_of(settings.no_slower_than))
    chosen = winner(candidates, limit)
    print(
        f"the winner, the best that is no slower than {settings.no_slower_than} ({limit * 1000:.0f} µs), "
        f"is candidate {chosen.number}; for DESIGNS:\n    {SEARCHED!r}: {chosen.design!r},"
    )
