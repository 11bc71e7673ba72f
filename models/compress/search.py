"""Hardware-aware search: designs that are both accurate and fast here, their latency measured on this CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from models.architectures.designed import BlockName, Design, DesignedNetwork, Stage, groups_of, rounded
from models.architectures.fashion import BUDGET
from models.cost.latency import Effort, measure, measurement, normalised, write_untrained
from models.cost.profiling import profile
from models.export.to_onnx import to_onnx
from models.zoo.files import write_whole

BLOCKS = get_args(BlockName)
STORAGE = "search.db"
STUDY = "fashion"
WIDENING = ("inverted-residual", "inverted-residual-se", "ghost")
NARROWING = ("bottleneck", "fire")
"""The blocks that a ratio means something to, and which way."""
RATIOS = (2.0, 3.0, 4.0, 6.0)
NARROWER = 0.95
"""By so much a design that is over the budget is narrowed, again and again until it is within."""
NARROWEST = 0.01
"""The least share of its width at which a design is tried."""
RANDOM = 20
"""So many trials are drawn by chance before the sampler learns from them."""
TRAINING = "training"
"""The study's attribute: what its candidates are judged by, in words."""
SAME = "same_as"
"""A trial's attribute: the earlier trial that had the same design, whose values it took over."""

Judge = Callable[[Design], float]
"""Trains a design a little and returns its accuracy on the images kept back to choose on."""


class OverBudgetError(Exception):
    """No width brings a design within the budget."""


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
    ratio = trial.suggest_categorical("ratio", RATIOS) if block in WIDENING + NARROWING else None
    stages = tuple(
        Stage(
            block=block,
            channels=trial.suggest_int(f"channels_{index}", low, high, step=8),
            repeats=trial.suggest_int(f"repeats_{index}", 1, 4),
            kernel_size=trial.suggest_categorical(f"kernel_{index}", (3, 5)),
            ratio=1 / ratio if ratio and block in NARROWING else ratio,
        )
        for index, (low, high) in enumerate(((16, 80), (32, 160), (64, 320)))
    )
    return Design(stem=trial.suggest_int("stem", 8, 32, step=8), stages=stages)


def p50_ms(design: Design, runs: int = 200) -> float:
    """Measure the p50 of a design with random weights by `weighin bench`, in milliseconds, one thread.

    Raises ModelsError where that fails.
    """
    torch.manual_seed(0)
    network = DesignedNetwork(design, 10).eval()
    cost = profile(network, 28, 1)
    with tempfile.TemporaryDirectory() as folder:
        content = to_onnx(network).SerializeToString()
        write_untrained(
            Path(folder) / "candidate",
            content,
            normalised(1, 28, 28),
            classes=10,
            parameters=cost.parameters,
            macs=cost.macs,
        )
        bundle = measure(Path(folder), ["candidate"], Effort(rounds=3, runs=runs))
    return measurement(bundle).latency["candidate"].p50_ms


def macs_of(design: Design) -> int:
    """Multiply-accumulates of one image. Raises ValueError for a design that cannot be built."""
    return profile(DesignedNetwork(design, 10), 28, 1).macs


def within(design: Design, budget: int) -> Design:
    """The design with channels that its blocks can have, all narrowed alike where it is over the budget.

    So each suggestion comes to something: of those drawn freely few are within, and of wide blocks none.
    A pointwise head keeps its channels. Raises OverBudgetError for a design that is too deep at any width.
    """
    width = 1.0
    fitting = _of_width(design, width)
    while macs_of(fitting) > budget:
        width *= NARROWER
        if width < NARROWEST:
            raise OverBudgetError(f"not within {budget} multiply-accumulates at any width: {design}")
        fitting = _of_width(design, width)
    return fitting


def _of_width(design: Design, width: float) -> Design:
    """At about a share of its channels: the nearest that its blocks can have."""
    channels = stem = rounded(width * design.stem)
    stages = []
    for stage in design.stages:
        if stage.block == "grouped":
            channels = _dividing(channels, width * stage.channels, stage.group_width)
        else:
            channels = rounded(width * stage.channels, 16 if stage.block == "shuffle" else 8)
        stages.append(stage.model_copy(update={"channels": channels}))
    return design.model_copy(update={"stem": stem, "stages": tuple(stages)})


def _dividing(channels: int, wanted: float, group_width: int) -> int:
    """The channels nearest to those wanted that grouped convolutions can have after a layer's `channels`."""
    possible = range(group_width, round(wanted) + channels + group_width, group_width)
    fitting = [each for each in possible if each % groups_of(channels, each, group_width) == 0]
    return min(fitting, key=lambda each: abs(each - wanted))


def search(
    folder: Path,
    candidates: int,
    judge: Judge,
    training: str = "",
    say: Callable[[str], None] = print,
    measure_p50_ms: Callable[[Design], float] = p50_ms,
) -> list[Candidate]:
    """Go on searching until `candidates` were judged, and return them; a killed search loses one candidate.

    Everything is kept in `folder`. A design over the budget is narrowed until it is within; one that was
    judged before takes over its values, and is no further candidate.
    Nothing else should train meanwhile: latency is measured here. Raises ValueError where the folder's search
    judges by another `training`, and RuntimeError where the sampler keeps coming back to the same designs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(folder)
    before = study.user_attrs.get(TRAINING, training)
    if before != training:
        raise ValueError(f"the search in {folder} judges by {before}, not by {training}; give another --runs")
    study.set_user_attr(TRAINING, training)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # what was running when it was killed

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        design = within(suggest(trial), BUDGET)
        described = design.model_dump(mode="json")
        trial.set_user_attr("design", described)
        for earlier in _judged(study):
            if earlier.user_attrs["design"] == described:
                trial.set_user_attr(SAME, earlier.number)
                return earlier.values[0], earlier.values[1]
        macs = macs_of(design)
        trial.set_user_attr("macs", macs)
        latency = measure_p50_ms(design)
        accuracy = judge(design)
        say(
            f"candidate {trial.number}: {design.block()} {accuracy:.2%}, {latency * 1000:.0f} µs, {macs} MACs"
        )
        return accuracy, latency

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    while (done := len(_judged(study))) < candidates:
        # Seeded by what is there, so that a resumed search does not propose the same designs again.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), n_startup_trials=RANDOM)
        study.optimize(objective, n_trials=1, catch=(OverBudgetError,))
        if len(study.trials) > 20 * candidates:
            raise RuntimeError(f"of {len(study.trials)} suggestions only {done} are designs of their own")
    return found(folder)


def found(folder: Path) -> list[Candidate]:
    """All candidates that were judged so far. Raises FileNotFoundError where there was no search."""
    if not (folder / STORAGE).exists():
        raise FileNotFoundError(f"there was no search in {folder}")
    judged = _judged(_study(folder))
    return [
        Candidate(
            number=trial.number,
            design=Design.model_validate(trial.user_attrs["design"]),
            accuracy=trial.values[0],
            p50_ms=trial.values[1],
            macs=trial.user_attrs["macs"],
            best=not any(_beats(other, trial) for other in judged),
        )
        for trial in judged
    ]


def _beats(one: FrozenTrial, other: FrozenTrial) -> bool:
    """In one of accuracy and latency, and is as good in the other."""
    (accuracy, p50), (others_accuracy, others_p50) = one.values, other.values
    return accuracy >= others_accuracy and p50 <= others_p50 and one.values != other.values


def winner(candidates: Sequence[Candidate], limit_ms: float) -> Candidate:
    """The most accurate that takes at most `limit_ms`: what gets the whole training.

    So MnasNet's search treats latency (Tan et al., arXiv 1807.11626): as a target. Raises ValueError where no
    candidate is so fast.
    """
    fast = [candidate for candidate in candidates if candidate.p50_ms <= limit_ms]
    if not fast:
        raise ValueError(f"none of {len(candidates)} candidates takes at most {limit_ms:.3f} ms")
    return max(fast, key=lambda candidate: (candidate.accuracy, -candidate.p50_ms))


def _judged(study: optuna.Study) -> list[FrozenTrial]:
    """Those that were trained and measured themselves."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if SAME not in trial.user_attrs]


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
