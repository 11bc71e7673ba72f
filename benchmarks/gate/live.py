"""Real gates whose right verdict is known, run with the command `weighin gate`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.gate.record import SLOWER_BY
from benchmarks.instrument.launch import measure_slowdown, open_network
from benchmarks.instrument.noise import busy_core
from benchmarks.results import Results
from models.zoo.card import read_card, write_card
from models.zoo.files import NETWORKS
from models.zoo.preprocess import preprocess
from service.bench.measure.inputs import natural_picture
from service.bench.measure.subjects import BareSession

MODELS = ("efficientnet-lite0-int8", "fashion-inverted-residual-int8")
LIVE = (
    *[(MODELS[0], "equal", False), (MODELS[0], "slow", False)] * 2,
    *[(MODELS[1], "equal", False), (MODELS[1], "slow", False)] * 8,
    *[(MODELS[1], "equal", True), (MODELS[1], "slow", True)],
)
"""The gates, each with the base, the kind of new network, and whether one core is kept busy meanwhile."""
_TRIED_CHANNELS = (1, 65)


def record_gate(results: Results) -> bool:
    """Run and record the next gate of LIVE, and return True.

    If all gates of LIVE are recorded already, return False.
    """
    done = len(results.of("live-gate"))
    if done >= len(LIVE):
        return False
    name, kind, busy = LIVE[done]
    model = NETWORKS / name
    with tempfile.TemporaryDirectory() as temporary:
        new, outcome = Path(temporary, f"{name}-new"), Path(temporary, "gate.json")
        write_copy(model, new, 0 if kind == "equal" else _channels(results, model))
        command = [sys.executable, "-m", "service", "gate", "--base", str(model), "--new", str(new)]
        started = time.monotonic()
        with busy_core() if busy else contextlib.nullcontext():
            ended = subprocess.run([*command, "--json", str(outcome)], check=False, capture_output=True)
        seconds = time.monotonic() - started
        latency = json.loads(outcome.read_text())["latency"]
    results.append(
        "live-gate",
        model=name,
        new=kind,
        busy=busy,
        exit=ended.returncode,
        seconds=round(seconds, 1),
        latency=latency,
    )
    return True


def _channels(results: Results, model: Path) -> int:
    """Return the number of channels for which the copy of `write_copy` is slower than the model by SLOWER_BY.

    The number is determined once per model: the slowdown is measured with few and with many channels, and the
    number is calculated from both slowdowns. One measurement would not suffice, because a part of the
    slowdown does not depend on the number of channels.
    """
    for record in results.of("live-calibration"):
        if record["model"] == model.name:
            return int(record["channels"])
    tensor = preprocess(natural_picture(), read_card(model).input)
    longer = []
    with tempfile.TemporaryDirectory() as temporary:
        for channels in _TRIED_CHANNELS:
            copy = Path(temporary, str(channels))
            write_copy(model, copy, channels)
            subjects = [BareSession(open_network(folder), [tensor]) for folder in (model, copy)]
            longer.append(measure_slowdown(*subjects)[1])
    few, many = _TRIED_CHANNELS
    channels = max(1, round(few + (SLOWER_BY - longer[0]) / (longer[1] - longer[0]) * (many - few)))
    results.append("live-calibration", model=model.name, longer=longer, channels=channels)
    return channels


def write_copy(model: Path, target: Path, channels: int) -> None:
    """Write a copy of a classifier with its card to the folder `target`; the copy's file has other bytes.

    If `channels` is not 0, the copy has an additional convolution of the image, with this number of output
    channels. The result of the convolution is scaled to nearly zero and added to the logits. So the copy does
    more work, but gives the same answers.
    """
    card = read_card(model)
    network = onnx.load_model_from_string((model / card.file.name).read_bytes())
    network.doc_string = f"copy for a gate, with {channels} channels of additional work"
    if channels:
        _add_branch(network.graph, card.input.channels, channels)
    content = network.SerializeToString()
    target.mkdir(parents=True)
    (target / card.file.name).write_bytes(content)
    file = card.file.model_copy(update={"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    write_card(target, card.model_copy(update={"name": target.name, "file": file}))


def _add_branch(graph: Any, inputs: int, channels: int) -> None:
    random = np.random.default_rng(0)
    weights = random.normal(0, 0.1, (channels, inputs, 3, 3)).astype(np.float32)
    scale = np.full((channels, 1), 1e-30, np.float32)
    graph.initializer.extend(
        [numpy_helper.from_array(weights, "branch.w"), numpy_helper.from_array(scale, "branch.scale")]
    )
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == "logits":
                node.output[index] = "branch.before"
        for index, name in enumerate(node.input):
            if name == "logits":
                node.input[index] = "branch.before"
    graph.node.extend(
        [
            helper.make_node("Conv", ["image", "branch.w"], ["branch.conv"], strides=[2, 2], pads=[1] * 4),
            helper.make_node("Relu", ["branch.conv"], ["branch.relu"]),
            helper.make_node("GlobalAveragePool", ["branch.relu"], ["branch.pooled"]),
            helper.make_node("Flatten", ["branch.pooled"], ["branch.flat"]),
            helper.make_node("MatMul", ["branch.flat", "branch.scale"], ["branch.nothing"]),
            helper.make_node("Add", ["branch.before", "branch.nothing"], ["logits"]),
        ]
    )
