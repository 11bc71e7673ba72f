"""What a teacher brought a student: trainings with and without it, alike in all else, on the test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.fashion_mnist import Images
from models.evaluate.accuracy import Classes, mean_probabilities
from models.evaluate.gain import gain
from models.evaluate.significance import JudgedFurther, JudgedGain
from models.train import checkpoint
from models.train.family import run_folder, trained
from models.train.job import Prepared
from models.train.loop import CHECKPOINT
from models.train.predict import predict
from models.zoo.card import read_cards
from models.zoo.paired import compare

TAUGHT, ALONE = "distilled", "alone"
"""End the names of a student's trainings with a teacher and without."""
TRAINED_ON = "-on"
"""Ends the name of a training that went on from a finished network, with a teacher or without."""
FROM_TEACHER = ("teacher", "distillation")
"""What a training with a teacher has in its identity, and one without has not."""


def judge(
    student: str, runs: Path, seeds: int, zoo: Path, test: Images, say: Callable[[str], None] = print
) -> JudgedGain:
    """Judge the trainings of `models distill`: `seeds` pairs from 0, and those trained on, where both are.

    The teachers, of `zoo`, are judged too, by the mean of their probabilities.
    Raises FileNotFoundError for a training that is not there, CheckpointError for trainings that differ in
    more than seed and teacher, and ValueError for a zoo without the very teachers.
    """
    networks, identities = _pairs_of(student, runs, range(seeds))
    further = _further(student, runs, identities[TAUGHT][0], test, say)
    teachers = identities[TAUGHT][0]["teacher"]
    taught_by = _teachers_accuracy(teachers, zoo, test)
    say(f"the mean of {', '.join(map(_name, teachers))}: {taught_by:.2%}")
    right = {kind: np.stack([_right(network, test) for network in networks[kind]]) for kind in networks}
    for kind in right:
        each = ", ".join(f"{share:.2%}" for share in right[kind].mean(1))
        say(f"{student} {kind}: {right[kind].mean():.2%} on average ({each})")
    found = gain(right[TAUGHT], right[ALONE])
    return JudgedGain(
        student=student,
        teachers=tuple(map(_name, teachers)),
        teacher=taught_by,
        epochs=identities[TAUGHT][0]["recipe"]["epochs"],
        seeds=found.seeds,
        n=found.n,
        distilled=float(right[TAUGHT].mean()),
        alone=float(right[ALONE].mean()),
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        further=further,
    )


def _further(
    student: str, runs: Path, taught: Mapping[str, Any], test: Images, say: Callable[[str], None]
) -> JudgedFurther | None:
    """The finished student trained on, with the same teacher and without it; None where one is missing."""
    names = [f"{student}-{kind}{TRAINED_ON}" for kind in (TAUGHT, ALONE)]
    if not all((run_folder(runs, name, 0) / CHECKPOINT).exists() for name in names):
        return None
    networks, identities = _pairs_of(student, runs, (0,), TRAINED_ON)
    (identity,) = identities[TAUGHT]
    path = run_folder(runs, names[0], 0) / CHECKPOINT
    checkpoint.require_same(path, *({key: each[key] for key in FROM_TEACHER} for each in (identity, taught)))
    right = [_right(networks[kind][0], test) for kind in (TAUGHT, ALONE)]
    for name, answers in zip(names, right, strict=True):
        say(f"{name}: {answers.mean():.2%}")
    pair = compare(*right)
    return JudgedFurther(
        epochs=identity["recipe"]["epochs"],
        distilled=float(right[0].mean()),
        alone=float(right[1].mean()),
        difference=pair.difference,
        low=pair.low,
        high=pair.high,
        p=pair.p,
    )


def _pairs_of(
    student: str, runs: Path, seeds: Sequence[int], ending: str = ""
) -> tuple[dict[str, list[Any]], dict[str, list[Mapping[str, Any]]]]:
    """The networks and the identities of trainings with and without a teacher that differ in nothing else."""
    networks: dict[str, list[Any]] = {TAUGHT: [], ALONE: []}
    identities: dict[str, list[Mapping[str, Any]]] = {TAUGHT: [], ALONE: []}
    for kind in (TAUGHT, ALONE):
        for seed in seeds:
            folder = run_folder(runs, f"{student}-{kind}{ending}", seed)
            network, identity = trained(folder)
            networks[kind].append(network)
            identities[kind].append(identity)
            for without, other in (
                (("seed",), identities[kind][0]),
                (("seed", *FROM_TEACHER), identities[TAUGHT][0]),
            ):
                checkpoint.require_same(folder / CHECKPOINT, _but(identity, without), _but(other, without))
    return networks, identities


def _but(identity: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in (*without, "made_with")}


def _right(network: Any, test: Images) -> NDArray[np.bool_]:
    prepared = Prepared.of(test)
    right: NDArray[np.bool_] = (predict(network, prepared.inputs).argmax(1) == prepared.classes).numpy()
    return right


def _teachers_accuracy(teachers: Sequence[str], zoo: Path, test: Images) -> float:
    cards = read_cards(zoo, [_name(teacher) for teacher in teachers])
    others = [each for each in teachers if not cards[_name(each)].file.sha256.startswith(each.split()[1])]
    if others:
        raise ValueError(f"{zoo} has other models than those that taught: {', '.join(others)}")
    mean = mean_probabilities([Classes(zoo / name).logits(test.pixels) for name in cards])
    return float((mean.argmax(1) == test.classes).mean())


def _name(teacher: str) -> str:
    """Of `NAME SHA256`, as `models distill` keeps its teachers."""
    return teacher.split()[0]
