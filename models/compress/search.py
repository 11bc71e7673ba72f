"""Hardware-aware architecture search: accuracy after a short training, and latency measured on this CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from models.architectures.designed import BlockName, Design, DesignedNetwork, Stage, groups_of, round_channels
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
"""Blocks with a ratio. It makes those in WIDENING wider inside, and those in NARROWING narrower."""
RATIOS = (2.0, 3.0, 4.0, 6.0)
WIDTH_STEP = 0.95
"""Factor by which a design is narrowed again and again until it fits the budget."""
MIN_WIDTH = 0.01
"""Smallest width multiplier that is tried."""
RANDOM_TRIALS = 20
"""Number of random trials at the start. After them, the sampler chooses designs by the results so far."""
TRAINING = "training"
"""Name of the study's attribute that describes how its candidates are trained."""
DUPLICATE = "same_as"
"""Name of an attribute of trials whose design was tried before.

Its value is the number of the earlier trial, whose accuracy and latency such a trial copies.
"""

Judge = Callable[[Design], float]
"""Function that trains a design briefly and returns its accuracy (0 to 1) on the validation images."""


class OverBudgetError(Exception):
    """A design exceeds the budget at any width."""


@dataclass(frozen=True)
class Candidate:
    """A design that the search tried, with its measured accuracy and p50.

    `number` is the number of its trial. `accuracy` (0 to 1) is that on the validation images after a short
    training. `best` says whether the candidate is on the Pareto front of accuracy and p50.
    """

    number: int
    design: Design
    accuracy: float
    p50_ms: float
    macs: int
    best: bool


def suggest(trial: optuna.Trial) -> Design:
    """Return a design from the search space, as the sampler of `trial` suggests it.

    All stages have the same kind of block. Each stage has its own width, depth and kernel size.
    """
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
    """Return the p50 in milliseconds of a design with random weights, on one thread.

    It is measured by `weighin bench`.

    Raises ModelsError if the benchmark fails.
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
    """Return a design's number of multiply-accumulates for one image.

    Raises ValueError if the design cannot be built.
    """
    return profile(DesignedNetwork(design, 10), 28, 1).macs


def fit_to_budget(design: Design, budget: int) -> Design:
    """Return the design, narrowed uniformly until it has at most `budget` multiply-accumulates.

    Channels are rounded to numbers that the blocks support; a pointwise head is not narrowed. Without
    narrowing, few of the suggested designs would fit the budget, and no design that has wide blocks would fit
    it. Raises OverBudgetError for a design that is over the budget at any width.
    """
    width = 1.0
    narrowed = _scaled(design, width)
    while macs_of(narrowed) > budget:
        width *= WIDTH_STEP
        if width < MIN_WIDTH:
            raise OverBudgetError(f"design: over {budget} multiply-accumulates at any width: {design}")
        narrowed = _scaled(design, width)
    return narrowed


def _scaled(design: Design, width: float) -> Design:
    """Return the design with its numbers of channels multiplied by `width`.

    They are rounded to the nearest numbers that the blocks support.
    """
    channels = stem = round_channels(width * design.stem)
    stages = []
    for stage in design.stages:
        if stage.block == "grouped":
            channels = _grouped_channels(channels, width * stage.channels, stage.group_width)
        else:
            channels = round_channels(width * stage.channels, 16 if stage.block == "shuffle" else 8)
        stages.append(stage.model_copy(update={"channels": channels}))
    return design.model_copy(update={"stem": stem, "stages": tuple(stages)})


def _grouped_channels(inputs: int, wanted: float, group_width: int) -> int:
    """Return the number of output channels nearest to `wanted` that a grouped convolution can have."""
    candidates = range(group_width, round(wanted) + inputs + group_width, group_width)
    supported = [outputs for outputs in candidates if outputs % groups_of(inputs, outputs, group_width) == 0]
    return min(supported, key=lambda outputs: abs(outputs - wanted))


def search(
    folder: Path,
    candidates: int,
    judge: Judge,
    training: str = "",
    report: Callable[[str], None] = print,
    measure_p50_ms: Callable[[Design], float] = p50_ms,
) -> list[Candidate]:
    """Search until `folder` has `candidates` candidates, and return all candidates in `folder`.

    A search that was killed is resumed and loses at most one candidate. Designs over the budget are narrowed
    to fit it. If the sampler suggests a design again, the values of its first trial are used, and the
    repetition does not count as a further candidate. `training` describes what `judge` does, and `report`
    receives one line for each candidate. Latency is measured here, so nothing else should run on the machine
    meanwhile. Raises ValueError if the search in `folder` has another `training`, and RuntimeError if the
    sampler suggests too few new designs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(folder)
    stored = study.user_attrs.get(TRAINING, training)
    if stored != training:
        raise ValueError(f"{folder}: candidates trained for {stored}, not {training}; give another --runs")
    study.set_user_attr(TRAINING, training)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # interrupted by a kill

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        design = fit_to_budget(suggest(trial), BUDGET)
        described = design.model_dump(mode="json")
        trial.set_user_attr("design", described)
        for earlier in _judged(study):
            if earlier.user_attrs["design"] == described:
                trial.set_user_attr(DUPLICATE, earlier.number)
                return earlier.values[0], earlier.values[1]
        macs = macs_of(design)
        trial.set_user_attr("macs", macs)
        latency = measure_p50_ms(design)
        accuracy = judge(design)
        report(
            f"candidate {trial.number}: {design.block()} {accuracy:.2%}, {latency * 1000:.0f} µs, {macs} MACs"
        )
        return accuracy, latency

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    while (done := len(_judged(study))) < candidates:
        # Seeded by the number of trials, so that a resumed search does not repeat its first suggestions.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), n_startup_trials=RANDOM_TRIALS)
        study.optimize(objective, n_trials=1, catch=(OverBudgetError,))
        if len(study.trials) > 20 * candidates:
            raise RuntimeError(f"search: only {done} distinct designs in {len(study.trials)} suggestions")
    return read_candidates(folder)


def read_candidates(folder: Path) -> list[Candidate]:
    """Return all judged candidates of the search in `folder`.

    Raises FileNotFoundError if `folder` has no search.
    """
    if not (folder / STORAGE).exists():
        raise FileNotFoundError(f"{folder}: no search")
    return _with_front(
        Candidate(
            number=trial.number,
            design=Design.model_validate(trial.user_attrs["design"]),
            accuracy=trial.values[0],
            p50_ms=trial.values[1],
            macs=trial.user_attrs["macs"],
            best=False,
        )
        for trial in _judged(_study(folder))
    )


def measured_again(
    path: Path,
    report: Callable[[str], None] = print,
    measure_p50_ms: Callable[[Design], float] = p50_ms,
) -> list[Candidate]:
    """Return the candidates that `write_candidates` wrote to `path`, with latencies measured now.

    Their accuracies stay, so nothing is trained. Nothing else should run on the machine meanwhile. Raises
    OSError if the file cannot be read, and ValueError if it holds no candidates.
    """
    entries = json.loads(path.read_text())
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: no candidates of a search")
    candidates = []
    for entry in entries:
        design = Design.model_validate(entry["design"])
        latency = measure_p50_ms(design)
        report(
            f"candidate {entry['number']}: {design.block()} {latency * 1000:.1f} µs, "
            f"before {entry['p50_ms'] * 1000:.1f} µs"
        )
        candidates.append(
            Candidate(
                number=entry["number"],
                design=design,
                accuracy=entry["validation_accuracy"],
                p50_ms=latency,
                macs=entry["macs"],
                best=False,
            )
        )
    return _with_front(candidates)


def _with_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates, with `best` set for those on the Pareto front of accuracy and p50."""
    listed = list(candidates)
    return [
        replace(candidate, best=not any(_dominates(other, candidate) for other in listed))
        for candidate in listed
    ]


def _dominates(first: Candidate, second: Candidate) -> bool:
    """Return whether `first` is better than `second` in accuracy or latency, and worse in neither."""
    ours, theirs = (first.accuracy, first.p50_ms), (second.accuracy, second.p50_ms)
    return first.accuracy >= second.accuracy and first.p50_ms <= second.p50_ms and ours != theirs


def winner(candidates: Sequence[Candidate], limit_ms: float) -> Candidate:
    """Return the most accurate candidate whose p50 is at most `limit_ms` milliseconds.

    Latency is a hard target, as in MnasNet's search (Tan et al., https://arxiv.org/abs/1807.11626). Raises
    ValueError if no candidate is fast enough.
    """
    fast = [candidate for candidate in candidates if candidate.p50_ms <= limit_ms]
    if not fast:
        raise ValueError(f"{len(candidates)} candidates: none with p50 of at most {limit_ms:.3f} ms")
    return max(fast, key=lambda candidate: (candidate.accuracy, -candidate.p50_ms))


def _judged(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials whose design was trained and measured, without repetitions of earlier designs."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if DUPLICATE not in trial.user_attrs]


def _study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        study_name=STUDY,
        storage=f"sqlite:///{folder / STORAGE}",
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )


def write_candidates(candidates: list[Candidate], path: Path) -> None:
    """Write all candidates as a JSON array, fastest first."""
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
