"""Parameters and multiply-accumulates: hand-counted on small layers, and as the cards state them."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.architectures import ARCHITECTURES  # noqa: E402
from models.profiling import Cost, profile  # noqa: E402
from models.recipes import RECIPES  # noqa: E402
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


def test_counting_leaves_the_network_as_it_was() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).train()
    profile(network, 32)
    assert network.training
    assert network[1].num_batches_tracked == 0
    assert not network[0]._forward_hooks


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_cards_costs_are_the_networks(name: str, zoo: Path) -> None:
    network = ARCHITECTURES.create(name)
    cost = profile(network, network.input_size)
    for folder in (zoo / name, zoo / f"{name}-int8"):
        card = read_card(folder)
        assert (card.parameters, card.macs) == (cost.parameters, cost.macs)
