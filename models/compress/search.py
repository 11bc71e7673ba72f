"""Hardware-aware search: designs that are both accurate and fast here, their latency measured on this CPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

from models.architectures.designed import Design, DesignedNetwork, Stage, rounded
from models.architectures.fashion import BUDGET
from models.export import to_onnx, write_whole
from models.latency import measure
from models.profiling import profile

BLOCKS = (
    "standard",
    "depthwise-separable",
    "grouped",
    "bottleneck",
    "inverted-residual",
    "inverted-residual-se",
    "shuffle",
    "fire",
    "ghost",
)
STORAGE = "search.db"
STUDY = "fashion"
NARROWER = 0.95
"""By so much a design that is over the budget is narrowed, again and again until it is within."""
CLOSE = 0.003
"""So much less validation accuracy than the best candidate's is taken for as good: 15 of 5 000 images."""

Judge = Callable[[Design], float]
"""Trains a design a little and returns its accuracy on the images kept back to choose on."""


class CannotBeBuiltError(Exception):
    """A block cannot be made with a design's channels."""


@dataclass(frozen=True)
class Candidate:
    """A design, its accuracy after a little training, its measured p50; `best`: no other beats both."""

    number: int
    design: Design
    accuracy: float
    p50_ms: float
    macs: int
    best: bool


def suggest(trial: optuna.Trial) -> Design:
    """A design of the search space: one block, and for each stage width, depth and kernel."""
    block = trial.suggest_categorical("block", BLOCKS)
    ratio = trial.suggest_categorical("ratio", (2.0, 3.0, 4.0, 6.0))
    narrowing = block in ("bottleneck", "fire")
    stages = tuple(
        Stage(
            block=block,
            channels=trial.suggest_int(f"channels_{index}", low, high, step=16),
            repeats=trial.suggest_int(f"repeats_{index}", 1, 4),
            kernel_size=trial.suggest_categorical(f"kernel_{index}", (3, 5)),
            ratio=1 / ratio if narrowing else ratio,
        )
        for index, (low, high) in enumerate(((16, 80), (32, 160), (64, 320)))
    )
    return Design(stem=trial.suggest_int("stem", 8, 32, step=8), stages=stages)


def p50_ms(design: Design, runs: int = 200) -> float:
    """The median latency of a design with random weights, one thread, in ONNX Runtime, milliseconds."""
    torch.manual_seed(0)
    model = to_onnx(DesignedNetwork(design, 10).eval()).SerializeToString()
    image = np.random.default_rng(0).normal(0, 1, (1, 1, 28, 28)).astype(np.float32)
    return float(np.median([np.median(measure(model, image, runs)) for _ in range(3)])) / 1e6


def macs_of(design: Design) -> int:
    """Multiply-accumulates of one image. Raises CannotBeBuiltError for a design that cannot be built."""
    try:
        return profile(DesignedNetwork(design, 10), 28, 1).macs
    except ValueError as error:
        raise CannotBeBuiltError(str(error)) from None


def within(design: Design, budget: int) -> Design:
    """The design, all of it made narrower alike where it costs more multiply-accumulates than the budget.

    So each suggestion comes to something: of those drawn freely few are within, and of wide blocks none.
    Raises CannotBeBuiltError where it cannot be built, or not so narrow.
    """
    width = 1.0
    fitting = design
    while macs_of(fitting) > budget:
        width *= NARROWER
        stages = tuple(
            stage.model_copy(update={"channels": rounded(width * stage.channels, 16)})
            for stage in design.stages
        )
        if width < 0.01:
            raise CannotBeBuiltError(f"not within {budget} multiply-accumulates at any width: {design}")
        fitting = Design(stem=rounded(width * design.stem), stages=stages)
    return fitting


def search(
    folder: Path, candidates: int, judge: Judge, say: Callable[[str], None] = print
) -> list[Candidate]:
    """Go on searching until `candidates` were judged, and return them; a killed search loses one candidate.

    Everything is kept in `folder`; a design over the budget is narrowed until it is within.
    Nothing else should train meanwhile: latency is measured here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(folder)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # what was running when it was killed

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        design = within(suggest(trial), BUDGET)
        macs = macs_of(design)
        trial.set_user_attr("design", design.model_dump(mode="json"))
        trial.set_user_attr("macs", macs)
        latency = p50_ms(design)
        accuracy = judge(design)
        say(
            f"candidate {trial.number}: {design.block()} {accuracy:.2%}, {latency * 1000:.0f} µs, {macs} MACs"
        )
        return accuracy, latency

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    while (done := len(_judged(study))) < candidates:
        # Seeded by what is there, so that a resumed search does not propose the same designs again.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), n_startup_trials=20)
        study.optimize(objective, n_trials=1, catch=(CannotBeBuiltError,))
        if len(study.trials) > 200 * candidates:
            raise RuntimeError(f"of {len(study.trials)} designs only {done} can be built")
    return found(folder)


def found(folder: Path) -> list[Candidate]:
    """All candidates that were judged so far. Raises FileNotFoundError where there was no search."""
    if not (folder / STORAGE).exists():
        raise FileNotFoundError(f"there was no search in {folder}")
    study = _study(folder)
    best = {trial.number for trial in study.best_trials}
    return [
        Candidate(
            number=trial.number,
            design=Design.model_validate(trial.user_attrs["design"]),
            accuracy=trial.values[0],
            p50_ms=trial.values[1],
            macs=trial.user_attrs["macs"],
            best=trial.number in best,
        )
        for trial in _judged(study)
    ]


def winner(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest whose accuracy is at most CLOSE below the best: what gets the whole training.

    After so short a training smaller differences say nothing. Raises ValueError where there is no candidate.
    """
    if not candidates:
        raise ValueError("there are no candidates to choose from")
    best = max(candidate.accuracy for candidate in candidates)
    close = [candidate for candidate in candidates if candidate.accuracy >= best - CLOSE]
    return min(close, key=lambda candidate: candidate.p50_ms)


def _judged(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if trial.values and all(map(math.isfinite, trial.values))]


def _study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        study_name=STUDY,
        storage=f"sqlite:///{folder / STORAGE}",
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )


def write_candidates(candidates: list[Candidate], path: Path) -> None:
    """All candidates as JSON, the fastest first."""
    entries: list[dict[str, Any]] = [
        {
            "number": candidate.number,
            "block": candidate.design.block(),
            "validation_accuracy": candidate.accuracy,
            "p50_ms": round(candidate.p50_ms, 5),
            "macs": candidate.macs,
            "on_front": candidate.best,
            "design": candidate.design.model_dump(mode="json"),
        }
        for candidate in sorted(candidates, key=lambda candidate: candidate.p50_ms)
    ]
    write_whole(path, (json.dumps(entries, indent=1) + "\n").encode())
