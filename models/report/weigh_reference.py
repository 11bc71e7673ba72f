"""Weighs the reference networks on this CPU: random weights, fp32 and int8, round by round, and resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures import ARCHITECTURES
from models.architectures.initialise import randomise
from models.cost.latency import measure, order, summarised
from models.cost.profiling import profile
from models.export.to_onnx import export
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.onnx_tools.session import RUNTIME
from models.report.published import PUBLISHED
from models.report.reference_table import PRECISIONS, markdown
from models.zoo.files import JsonLines, write_whole
from models.zoo.machine import Disturbance, Watch, this_machine

CONTROL = " again"
"""Ends the name under which the first model is measured a second time: what differs there is noise."""
CALIBRATION_IMAGES = 4
"""Random weights have no accuracy to lose, and the ranges that calibration finds do not change the speed."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured: the networks, each in fp32 and int8, so many `rounds` of so many `runs` each."""

    networks: tuple[str, ...]
    rounds: int = 20
    runs: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.networks if name not in list(ARCHITECTURES)]
        if unknown or not self.networks:
            raise ValueError(
                f"there is no reference network named {', '.join(unknown) or 'nothing'!r}; "
                f"known: {', '.join(ARCHITECTURES)}"
            )
        if self.rounds < 1 or self.runs < 1:
            raise ValueError(
                f"{self.rounds} rounds of {self.runs} runs measure nothing; at least 1 is needed"
            )

    def models(self) -> list[str]:
        """Names of all models, with the control."""
        names = [f"{network} {precision}" for network in self.networks for precision in PRECISIONS]
        return [*names, names[0] + CONTROL]


def weigh(plan: Plan, work: Path, output: Path, report: Report) -> str:
    """Measure what `work` does not hold yet, write the figures to `output` as JSON, return them as a table.

    Models and every finished round are kept in `work`, so that a killed measurement goes on where it was; a
    half-written round is measured again. Raises ValueError where what `work` holds was measured under other
    conditions (another machine, runtime, seed, number of runs, or other models).
    """
    work.mkdir(parents=True, exist_ok=True)
    for network in plan.networks:
        make_models(network, work, report)
    rounds = JsonLines(work / "rounds.jsonl", _conditions(plan, work))
    images = {network: _images(network, 1) for network in plan.networks}
    for number in range(len(rounds.records), plan.rounds):
        report(f"round {number + 1} of {plan.rounds}")
        watch = Watch()
        durations = {}
        for name in order(plan.models(), plan.seed, number):
            network = name.split()[0]
            durations[name] = measure(_file(work, name.removesuffix(CONTROL)), images[network], plan.runs)
        seen = watch.seen()
        rounds.append({"disturbance": None if seen is None else asdict(seen), "ns": durations})
    figures = summary(plan, work, rounds.records[: plan.rounds])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, (json.dumps(figures, indent=2) + "\n").encode())
    return markdown(figures)


def make_models(network: str, work: Path, report: Report) -> None:
    """Export the network with random weights, and quantize it, unless both are there."""
    floating, integer = (_file(work, f"{network} {precision}") for precision in PRECISIONS)
    if not floating.exists():
        report(f"exporting {network}")
        integer.unlink(missing_ok=True)
        module = ARCHITECTURES.create(network)
        images = _images(network, CALIBRATION_IMAGES)
        randomise(module, 0, torch.from_numpy(images))
        export(module.eval(), floating, images[:1])
    if not integer.exists():
        report(f"quantizing {network}")
        images = _images(network, CALIBRATION_IMAGES)
        quantize(floating, integer, np.split(images, len(images)), QuantizationPlan(correct_biases=False))


def _file(work: Path, model: str) -> Path:
    return work / f"{model.replace(' ', '-')}.onnx"


def _images(network: str, count: int) -> NDArray[np.float32]:
    """Random images with coarse and fine parts, the same ones every time, (count, 3, size, size)."""
    size = ARCHITECTURES.create(network).input_size
    random = np.random.default_rng(0)
    coarse = random.normal(0, 1, (count, 3, 8, 8)).repeat(size // 8 + 1, axis=2).repeat(size // 8 + 1, axis=3)
    fine = random.normal(0, 0.3, (count, 3, size, size))
    return (coarse[:, :, :size, :size] + fine).astype(np.float32)


def _conditions(plan: Plan, work: Path) -> dict[str, Any]:
    """All that must stay the same from the first round to the last."""
    files = [name for name in plan.models() if not name.endswith(CONTROL)]
    return {
        "machine": asdict(this_machine()) | {"instruction_set": list(this_machine().instruction_set)},
        "runtime": RUNTIME,
        "threads": 1,
        "runs": plan.runs,
        "seed": plan.seed,
        "sha256": {name: hashlib.sha256(_file(work, name).read_bytes()).hexdigest() for name in files},
    }


def summary(plan: Plan, work: Path, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all networks: cost, latency and speed-up, beside what others publish."""
    latencies = {name: summarised([one["ns"][name] for one in rounds]) for name in plan.models()}
    networks = []
    for network in plan.networks:
        module = ARCHITECTURES.create(network)
        cost = profile(module, module.input_size)
        published = PUBLISHED[network]
        floating, integer = (latencies[f"{network} {precision}"] for precision in PRECISIONS)
        networks.append(
            {
                "network": network,
                "input_size": module.input_size,
                "weights": "untrained",
                "parameters": cost.parameters,
                "macs": cost.macs,
                "published": asdict(published),
                **{
                    precision: asdict(latencies[f"{network} {precision}"])
                    | {"file_bytes": _file(work, f"{network} {precision}").stat().st_size}
                    for precision in PRECISIONS
                },
                "int8_speedup": round(floating.p50_ms / integer.p50_ms, 3),
            }
        )
    control = latencies[plan.models()[-1]].p50_ms / latencies[plan.models()[0]].p50_ms
    disturbances = [one["disturbance"] for one in rounds if one["disturbance"] is not None]
    worst = (
        Disturbance(*(max(one[key] for one in disturbances) for key in ("steal", "others")))
        if disturbances
        else None
    )
    return {
        **_conditions(plan, work),
        "rounds": len(rounds),
        "control_ratio": round(control, 4),
        "worst_disturbance": None if worst is None else asdict(worst),
        "dirty": worst is not None and worst.dirty,
        "networks": networks,
    }
