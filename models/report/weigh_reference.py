"""Measure the reference networks with `weighin bench`: random weights, fp32 and int8; resumable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures import ARCHITECTURES
from models.architectures.initialise import randomise
from models.cost.latency import Effort, measure, normalised, write_untrained
from models.cost.profiling import profile
from models.export.to_onnx import export
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.report.reference_table import PRECISIONS, markdown, read_bundles
from models.zoo.card import read_card
from models.zoo.files import JsonLines, write_whole
from models.zoo.machine import this_machine

CALIBRATION_IMAGES = 4
"""Number of random images on which activation ranges are calibrated.

Few suffice, because networks with random weights have no accuracy to lose, and the ranges do not change the
speed.
"""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """The networks to measure, each in fp32 and in int8, and the number of rounds and runs.

    Raises ValueError if `networks` is empty or has an unknown name.
    """

    networks: tuple[str, ...]
    effort: Effort

    def __post_init__(self) -> None:
        unknown = [name for name in self.networks if name not in list(ARCHITECTURES)]
        if unknown or not self.networks:
            raise ValueError(
                f"reference network {', '.join(unknown)!r}: unknown (allowed: {', '.join(ARCHITECTURES)})"
            )


def measure_reference(plan: Plan, work: Path, output: Path, report: Report) -> str:
    """Measure the networks that `work` lacks, write all bundles to `output`, and return a Markdown table.

    `work` stores models and the bundle of every finished network, so that a measurement that is killed loses
    at most one network. `report` receives one line of progress per step. Raises ValueError if bundles in
    `work` were measured under other conditions (machine, runtime, number of runs, models), and ModelsError if
    `weighin bench` fails.
    """
    models = work / "models"
    for network in plan.networks:
        _make_models(network, models, report)
    log = JsonLines(work / "bundles.jsonl", _conditions(plan, models))
    for number, network in enumerate(plan.networks[len(log.records) :], len(log.records) + 1):
        report(f"measuring {network}, {number} of {len(plan.networks)}")
        log.append(measure(models, [f"{network}-{precision}" for precision in PRECISIONS], plan.effort))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, (json.dumps(log.records, separators=(",", ":")) + "\n").encode())
    return markdown(read_bundles(output))


def _make_models(network: str, models: Path, report: Report) -> None:
    """Export a network with random weights, and quantize it.

    Nothing is done if the card of the int8 model exists already, because it is written last.
    """
    floating, integer = (models / f"{network}-{precision}" for precision in PRECISIONS)
    if (integer / "card.json").exists():
        return
    report(f"exporting {network}")
    module = ARCHITECTURES.create(network)
    images = _images(module.input_size, CALIBRATION_IMAGES)
    randomise(module, 0, torch.from_numpy(images))
    cost = profile(module, module.input_size)
    facts: dict[str, Any] = {"classes": 1000, "parameters": cost.parameters, "macs": cost.macs}
    for folder, precision in ((floating, "fp32"), (integer, "int8")):
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model.onnx"
        if precision == "fp32":
            export(module.eval(), model, images[:1])
        else:
            report(f"quantizing {network}")
            plan = QuantizationPlan(correct_biases=False)
            quantize(floating / "model.onnx", model, np.split(images, len(images)), plan)
        spec = normalised(3, module.input_size, module.input_size)
        write_untrained(folder, model.read_bytes(), spec, precision=precision, **facts)


def _images(size: int, count: int) -> NDArray[np.float32]:
    """Return random images (count, 3, size, size) with coarse and fine detail.

    The images are the same every time.
    """
    random = np.random.default_rng(0)
    coarse = random.normal(0, 1, (count, 3, 8, 8)).repeat(size // 8 + 1, axis=2).repeat(size // 8 + 1, axis=3)
    fine = random.normal(0, 0.3, (count, 3, size, size))
    return (coarse[:, :, :size, :size] + fine).astype(np.float32)


def _conditions(plan: Plan, models: Path) -> dict[str, Any]:
    """Return the conditions that must be the same for all networks of a measurement."""
    names = [f"{network}-{precision}" for network in plan.networks for precision in PRECISIONS]
    machine = this_machine()
    return {
        "machine": asdict(machine) | {"instruction_set": list(machine.instruction_set)},
        "runtime": version("onnxruntime"),
        **asdict(plan.effort),
        "sha256": {name: read_card(models / name).file.sha256 for name in names},
    }
