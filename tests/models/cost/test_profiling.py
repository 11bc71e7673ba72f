"""Parameters and multiply-accumulates: hand-counted on small layers, and as the cards state them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from models.architectures import ARCHITECTURES  # noqa: E402
from models.blocks.catalogue import BLOCKS, build  # noqa: E402
from models.blocks.shape import Shape  # noqa: E402
from models.cost.formulas import convolutions_of, total  # noqa: E402
from models.cost.profiling import Cost, profile  # noqa: E402
from models.publish.recipes import RECIPES  # noqa: E402
from models.zoo.card import read_card  # noqa: E402

pytestmark = pytest.mark.torch


def test_costs_counted_by_hand() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=True),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )
    parameters = 3 * 8 * 9 + 2 * 8 + (8 * 9 + 8) + (8 * 5 + 5)
    macs = 16 * 16 * 8 * 3 * 9 + 16 * 16 * 8 * 9 + 8 * 5
    assert profile(network, 32) == Cost(parameters, macs)


def test_profiling_preserves_the_network() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).train()
    profile(network, 32)
    assert network.training
    assert network[1].num_batches_tracked == 0
    assert not network[0]._forward_hooks


@pytest.mark.parametrize("name", list(RECIPES))
def test_costs_on_cards_equal_the_networks(name: str, zoo: Path) -> None:
    network = ARCHITECTURES.create(name)
    cost = profile(network, network.input_size)
    for folder in (zoo / name, zoo / f"{name}-int8"):
        card = read_card(folder)
        assert (card.parameters, card.macs) == (cost.parameters, cost.macs)


CHOICES: dict[str, list[dict[str, Any]]] = {
    "standard": [{}],
    "depthwise-separable": [{}],
    "grouped": [{"groups": 4}, {"groups": 8}, {"groups": "depthwise"}],
    "bottleneck": [{}, {"ratio": 0.5, "groups": 4}, {"groups": "depthwise"}],
    "inverted-residual": [{}, {"ratio": 1}, {"ratio": 3.5}, {"ratio": 4, "squeezed": 8}],
    "shuffle": [{}],
    "fire": [{}, {"ratio": 0.25}],
    "ghost": [{}, {"ratio": 3}, {"ratio": 2.5, "squeezed": 8}],
}


def shapes(block: str) -> Iterator[Shape]:
    """A grid of sizes, without those that the block cannot have."""
    for choice, (inputs, outputs), kernel, size, stride in product(
        CHOICES[block], ((16, 16), (16, 32), (32, 16), (48, 64)), (1, 3, 5), (7, 14, 15), (1, 2)
    ):
        keeps = inputs == outputs or stride != 1
        divides = choice.get("groups") != "depthwise" or block == "bottleneck" or outputs % inputs == 0
        if (keeps or block != "shuffle") and divides:
            yield Shape(inputs, outputs, kernel, size, stride, **choice)


@pytest.mark.parametrize("block", list(BLOCKS))
def test_formulas_equal_modules(block: str) -> None:
    grid = list(shapes(block))
    assert len(grid) >= 45
    for shape in grid:
        counted = profile(build(block, shape), shape.size, shape.inputs)
        assert total(convolutions_of(block, shape)) == counted, shape


def test_formulas_by_hand() -> None:
    shape = Shape(64, 128, kernel=3, size=56)
    places = 56 * 56
    assert total(convolutions_of("standard", shape)) == Cost(9 * 64 * 128 + 2 * 128, 9 * 64 * 128 * places)
    assert total(convolutions_of("depthwise-separable", shape)) == Cost(
        9 * 64 + 64 * 128 + 2 * 64 + 2 * 128, (9 * 64 + 64 * 128) * places
    )
    assert total(convolutions_of("grouped", replace(shape, groups=4))).macs == 9 * 64 * 128 * places // 4
    share = (
        total(convolutions_of("depthwise-separable", shape)).macs
        / total(convolutions_of("standard", shape)).macs
    )
    assert share == pytest.approx(1 / 128 + 1 / 9)


def test_formulas_and_blocks_raise_the_same_errors() -> None:
    for block, shape, message in (
        ("grouped", Shape(64, 96, groups=5), "groups: 5 do not divide"),
        ("bottleneck", Shape(64, 64, ratio=0.001), "leaves no channel"),
        ("inverted-residual", Shape(64, 64, ratio=0), "leaves no channel"),
    ):
        for make in (convolutions_of, build):
            with pytest.raises(ValueError, match=message):
                make(block, shape)
    for make in (convolutions_of, build):
        with pytest.raises(
            ValueError, match=r"block 'dense': unknown \(allowed: standard, depthwise-separable"
        ):
            make("dense", Shape(8, 8))
    with pytest.raises(ValueError, match=r"kernel: 4 \(allowed: an odd number"):
        Shape(8, 8, kernel=4)
