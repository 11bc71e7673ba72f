"""Compare the test accuracies of students that were trained alike with and without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.fashion_mnist import Images
from models.evaluate.accuracy import ZooClassifier, mean_probabilities
from models.evaluate.gain import gain
from models.evaluate.significance import JudgedFurther, JudgedGain
from models.train import checkpoint
from models.train.family import load_trained, run_folder
from models.train.job import Prepared
from models.train.loop import CHECKPOINT
from models.train.predict import predict
from models.zoo.card import read_cards
from models.zoo.paired import compare

DISTILLED, ALONE = "distilled", "alone"
"""Suffixes of the names of a student's trainings: DISTILLED with a teacher, ALONE without one."""
FINE_TUNED = "-on"
"""Suffix of the names of trainings that start from a trained student."""
TEACHER_KEYS = ("teacher", "distillation")
"""Fields of a training's identity that are there only if the training had a teacher."""


def judge(
    student: str, runs: Path, seeds: int, zoo: Path, test: Images, report: Callable[[str], None] = print
) -> JudgedGain:
    """Compare the trainings of `models distill` with and without the teacher, for seeds 0 to `seeds` - 1.

    If the student was also fine-tuned both with and without the teacher, these two trainings are compared
    too. The teacher is the mean of the probabilities of several models of `zoo`; it is evaluated, too.
    `report` receives one line for each result. Raises FileNotFoundError for a missing training,
    CheckpointError for trainings that differ in more than seed and teacher, and ValueError if the models of
    `zoo` have changed since they were teachers.
    """
    networks, identities = _load_pairs(student, runs, range(seeds))
    prepared = Prepared.of(test)
    further = _judge_fine_tuned(student, runs, identities[DISTILLED][0], prepared, report)
    teachers = identities[DISTILLED][0]["teacher"]
    teacher_accuracy = _teacher_accuracy(teachers, zoo, test)
    report(f"mean of {', '.join(map(_name, teachers))}: {teacher_accuracy:.2%}")
    correct = {
        kind: np.stack([_correct(network, prepared) for network in networks[kind]]) for kind in networks
    }
    for kind in correct:
        by_seed = ", ".join(f"{share:.2%}" for share in correct[kind].mean(1))
        report(f"{student} {kind}: {correct[kind].mean():.2%} on average ({by_seed})")
    result = gain(correct[DISTILLED], correct[ALONE])
    return JudgedGain(
        student=student,
        teachers=tuple(map(_name, teachers)),
        teacher=teacher_accuracy,
        epochs=identities[DISTILLED][0]["recipe"]["epochs"],
        seeds=result.seeds,
        n=result.n,
        distilled=float(correct[DISTILLED].mean()),
        alone=float(correct[ALONE].mean()),
        difference=result.difference,
        low=result.low,
        high=result.high,
        p=result.p,
        further=further,
    )


def _judge_fine_tuned(
    student: str, runs: Path, distilled: Mapping[str, Any], test: Prepared, report: Callable[[str], None]
) -> JudgedFurther | None:
    """Compare the students that were fine-tuned with and without the teacher.

    `distilled` is the identity of a training with the same teacher. Return None if one of the two fine-tuned
    students is missing.
    """
    names = [f"{student}-{kind}{FINE_TUNED}" for kind in (DISTILLED, ALONE)]
    if not all((run_folder(runs, name, 0) / CHECKPOINT).exists() for name in names):
        return None
    networks, identities = _load_pairs(student, runs, (0,), FINE_TUNED)
    (identity,) = identities[DISTILLED]
    path = run_folder(runs, names[0], 0) / CHECKPOINT
    stored, expected = ({key: source[key] for key in TEACHER_KEYS} for source in (identity, distilled))
    checkpoint.require_identity(path, stored, expected)
    correct = [_correct(networks[kind][0], test) for kind in (DISTILLED, ALONE)]
    for name, answers in zip(names, correct, strict=True):
        report(f"{name}: {answers.mean():.2%}")
    pair = compare(*correct)
    return JudgedFurther(
        epochs=identity["recipe"]["epochs"],
        distilled=float(correct[0].mean()),
        alone=float(correct[1].mean()),
        difference=pair.difference,
        low=pair.low,
        high=pair.high,
        p=pair.p,
    )


def _load_pairs(
    student: str, runs: Path, seeds: Sequence[int], suffix: str = ""
) -> tuple[dict[str, list[Any]], dict[str, list[Mapping[str, Any]]]]:
    """Load the networks and the identities of the trainings with and without a teacher.

    Raises CheckpointError if the trainings differ in anything but seed and teacher.
    """
    networks: dict[str, list[Any]] = {DISTILLED: [], ALONE: []}
    identities: dict[str, list[Mapping[str, Any]]] = {DISTILLED: [], ALONE: []}
    for kind in (DISTILLED, ALONE):
        for seed in seeds:
            folder = run_folder(runs, f"{student}-{kind}{suffix}", seed)
            network, identity = load_trained(folder)
            networks[kind].append(network)
            identities[kind].append(identity)
            for ignored, other in (
                (("seed",), identities[kind][0]),
                (("seed", *TEACHER_KEYS), identities[DISTILLED][0]),
            ):
                checkpoint.require_identity(
                    folder / CHECKPOINT, _without(identity, ignored), _without(other, ignored)
                )
    return networks, identities


def _without(identity: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in (*ignored, "made_with")}


def _correct(network: Any, test: Prepared) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = (predict(network, test.inputs).argmax(1) == test.classes).numpy()
    return correct


def _teacher_accuracy(teachers: Sequence[str], zoo: Path, test: Images) -> float:
    cards = read_cards(zoo, [_name(teacher) for teacher in teachers])
    changed = [
        teacher
        for teacher in teachers
        if not cards[_name(teacher)].file.sha256.startswith(teacher.split()[1])
    ]
    if changed:
        raise ValueError(f"{zoo}: models changed since they were teachers: {', '.join(changed)}")
    mean = mean_probabilities([ZooClassifier(zoo / name).logits(test.pixels) for name in cards])
    return float((mean.argmax(1) == test.classes).mean())


def _name(teacher: str) -> str:
    """Return NAME from `teacher`, a text `NAME SHA256`. A training's identity has one per teacher."""
    return teacher.split()[0]
