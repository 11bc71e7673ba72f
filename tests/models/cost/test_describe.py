"""What `explain` and `blocks` print: formulas with the numbers in them, figures that follow from them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from models.blocks.shape import Shape
from models.cli import main
from models.cost import describe
from models.cost.describe import VARIANTS
from models.cost.formulas import FORMULAS, total
from models.cost.latency import Effort
from service.bench.bundle_file import to_json
from service.inference.registry import Registry
from service.inference.session import OnnxSession
from tests.service.bench import bundles

pytestmark = pytest.mark.torch

QUICK = ["--rounds", "1", "--runs", "5"]


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments, *QUICK]) == 0
    return capsys.readouterr().out


def test_depthwise_separable_beside_standard(capsys: pytest.CaptureFixture[str]) -> None:
    printed = explained(
        capsys, "depthwise-separable", "--in", "64", "--out", "128", "--kernel", "3", "--size", "56"
    )
    plain = re.sub(" +", " ", re.sub(r"(?<=\d) (?=\d{3}\b)", "", printed))
    assert "depthwise 3² · 64 · 56² = 1806336 576" in plain
    assert "pointwise 64 · 128 · 56² = 25690112 8192" in plain
    assert "total 27496448 8768 and 384 of batch norm or biases" in plain
    assert "standard 3² · 64 · 128 · 56² = 231211008 73728" in plain
    assert "0.119 of the multiply-accumulates" in plain
    assert "(1/N + 1/D_K² = 1/128 + 1/9)" in plain
    assert "random weights (untrained), ONNX Runtime" in plain
    medians = [float(value) for value in re.findall(r"p50 ([\d.]+) ms \(rounds [\d.]+ to [\d.]+\)", plain)]
    assert len(medians) == 2
    assert medians[0] < medians[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("standard",),
        ("grouped", "--groups", "4"),
        ("grouped", "--groups", "depthwise"),
        ("bottleneck", "--ratio", "0.5", "--groups", "2", "--stride", "2"),
        ("inverted-residual", "--ratio", "3", "--squeezed", "8"),
        ("shuffle",),
        ("fire", "--kernel", "5"),
        ("ghost", "--stride", "2"),
    ],
)
def test_every_block_is_explained(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run every model as `weighin bench` would, but with invented durations."""

    def measured(zoo: Path, names: Sequence[str], effort: Effort) -> dict[str, Any]:
        registry = Registry([zoo], names[0])
        for name in names:
            card, content = registry.content(name)
            shape = (1, card.input.channels, card.input.height, card.input.width)
            logits = OnnxSession(content, card).run(np.ones(shape, np.float32))["logits"]
            assert logits.shape == (1, 2)
        samples = {name: [[[1_000_000] * effort.runs] * effort.rounds] for name in (*names, "again")}
        return dict(json.loads(to_json(bundles.bundle(samples, control="again"))))

    monkeypatch.setattr(describe, "measure", measured)
    printed = explained(capsys, *arguments, "--in", "16", "--out", "16", "--size", "14")
    assert printed.count("p50") == (1 if arguments == ("standard",) else 2)
    assert "total" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dense", "--in", "8", "--out", "8"), "block 'dense': unknown (allowed: standard, "),
        (("grouped", "--in", "8", "--out", "8", "--groups", "3"), "groups: 3 do not divide inputs 8"),
        (("standard", "--in", "0", "--out", "8"), "inputs: 0 (allowed: a whole number, 1 or more)"),
        (("standard", "--in", "8", "--out", "8", "--kernel", "4"), "kernel: 4 (allowed: an odd number)"),
        (("shuffle", "--in", "8", "--out", "16"), "(allowed with stride 1: as many as in_channels, 8)"),
        (("fire", "--in", "8", "--out", "8", "--ratio", "0"), "ratio: 0 leaves no channel"),
        (("standard", "--in", "8", "--out", "8", "--rounds", "0"), "measurement: 0 rounds of 50 runs"),
    ],
)
def test_invalid_blocks(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *arguments, "--size", "14"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_documented_table_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks"]) == 0
    printed = capsys.readouterr().out
    assert printed in (Path(__file__).parents[3] / "docs" / "blocks.md").read_text()
    assert len(printed.splitlines()) == len(VARIANTS) + 2
    macs = f"{total(FORMULAS['standard'](Shape(128, 128, 3, 28))).macs:,}".replace(",", " ")
    assert printed.splitlines()[2].endswith(f"| {macs} | 100.0% |")
