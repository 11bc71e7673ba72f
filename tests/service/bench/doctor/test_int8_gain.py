"""Whether int8 pays, in one sentence, and what eats the gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.onnx_tools.quantize import QuantizationPlan, quantized
from models.zoo.card import read_card
from service.bench.doctor.ab_timing import AbTiming
from service.bench.doctor.int8_gain import Int8Gain, measure_gain
from service.bench.doctor.model import ModelUnderTest
from tests.service.bench.doctor.networks import Network


def gain(low: float, high: float, **more: object) -> Int8Gain:
    timing = AbTiming(4_000_000, 2_000_000, (low * high) ** 0.5, low, high)
    fields: dict[str, object] = {"activations": (), "conversions": 0.0} | more
    return Int8Gain(timing, 18_000_000, 9_000_000, **fields)  # type: ignore[arg-type]


def test_the_verdict_is_that_of_the_interval() -> None:
    assert gain(1.9, 2.1).verdict == "pays"
    assert gain(0.8, 1.02).verdict == "does not pay"
    assert gain(0.9, 1.3).verdict == "undecided"


def test_one_sentence_has_the_figures() -> None:
    assert gain(1.6, 2.5).sentence("the same class on 96.4% of 224 pictures") == (
        "int8 pays on this machine: 2.00 times as fast (95 % interval 1.60 to 2.50; 4 ms in float, 2 ms in "
        "int8), 9 MB instead of 18 MB, the same class on 96.4% of 224 pictures"
    )
    assert gain(0.9, 1.3).sentence("x").startswith("whether int8 pays on this machine cannot be told: ")


def test_activations_are_named_where_they_eat_the_gain() -> None:
    activations = (("HardSwish", 0.25), ("HardSigmoid", 0.05))
    eaten = gain(1.0, 1.1, activations=activations, conversions=0.12).eaten
    assert eaten is not None
    assert "take 30% of its time (HardSwish 25%, HardSigmoid 5%)" in eaten
    assert "back 12%" in eaten
    assert gain(2, 3, activations=(("HardSwish", 0.02),), conversions=0.03).eaten is None
    assert gain(2, 3, conversions=0.5).eaten is None


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["HardSwish", "HardSigmoid"])
def test_activations_without_an_integer_kernel_are_found(tmp_path: Path, activation: str) -> None:
    network = Network()
    for number in range(2):
        network.conv(f"conv{number}", 16, kernel=3, relu=False)
        network.last = network.node(activation, [network.last], f"act{number}")
    folder = network.save(tmp_path, "network")
    card, content = read_card(folder), (folder / "model.onnx").read_bytes()
    images = list(np.random.default_rng(0).normal(0, 1, (4, 1, 3, 56, 56)).astype(np.float32))
    int8 = quantized(content, images, QuantizationPlan())
    found = measure_gain(ModelUnderTest(card, content), ModelUnderTest(card, int8))
    assert dict(found.activations).keys() == {activation}
    assert found.conversions > 0
    assert found.eaten is not None
    assert f"({activation} " in found.eaten
    assert (found.parent_bytes, found.int8_bytes) == (len(content), len(int8))
    assert found.timing.low <= found.timing.ratio <= found.timing.high
