"""Each network against torchvision's or timm's: as many parameters, and the same values at every stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from models.architectures import ARCHITECTURES  # noqa: E402
from models.architectures.initialise import randomise  # noqa: E402
from tests.models.architectures.references import REFERENCES, copy_over, outputs  # noqa: E402

pytestmark = pytest.mark.torch

TOLERANCE = 1e-4
"""Of the standard deviation of what is compared."""

WIDTHS = {"half": 0.5, "0.75": 0.75}


def ours(name: str) -> torch.nn.Module:
    network, _, width = name.partition(" at ")
    return ARCHITECTURES.create(network, width_multiplier=WIDTHS[width.split()[0]] if width else 1.0)


def images(size: int, count: int = 2) -> torch.Tensor:
    """Images that differ at all scales, (count, 3, size, size)."""
    random = torch.Generator().manual_seed(5)
    parts = [
        nn.functional.interpolate(torch.randn(count, 3, side, side, generator=random), size)
        for side in (1, 7, 56, size)
    ]
    return torch.stack(parts).sum(0)


def differences(name: str, change: Callable[[torch.nn.Module], None] | None = None) -> dict[str, float]:
    """The largest difference at every stage, as a share of its standard deviation.

    `change`, where given, spoils our network first.
    """
    reference = REFERENCES[name]
    theirs, mine = reference.make(), ours(name)
    assert sum(p.numel() for p in mine.parameters()) == sum(p.numel() for p in theirs.parameters())
    randomise(theirs, 1, images(mine.input_size, count=4))
    copy_over(theirs, mine)
    if change is not None:
        change(mine)
    seen = images(mine.input_size)
    found, logits = outputs(mine, [name for name, _ in reference.stages], seen)
    expected, their_logits = outputs(theirs, [name for _, name in reference.stages], seen)
    assert their_logits.std() >= 0.1
    assert (their_logits[0] - their_logits[1]).std() >= 0.01
    pairs = zip([*found, logits], [*expected, their_logits], strict=True)
    names = [name for name, _ in reference.stages] + ["logits"]
    shares = {}
    for stage, (got, want) in zip(names, pairs, strict=True):
        assert got.shape == want.shape, stage
        shares[stage] = float((got - want).abs().max() / want.std())
    return shares


@pytest.mark.parametrize("name", list(REFERENCES))
def test_stages_and_logits_equal_the_reference(name: str) -> None:
    found = differences(name)
    assert {stage: share for stage, share in found.items() if not share <= TOLERANCE} == {}


def test_every_block_is_compared() -> None:
    for name in ARCHITECTURES:
        compared = [stage for stage, _ in REFERENCES[name].stages if stage.startswith("blocks.")]
        assert compared == [f"blocks.{index}" for index in range(len(ours(name).blocks))]


def wrong_epsilon(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5


def wrong_epsilon_in_one_place(network: torch.nn.Module) -> None:
    network.blocks[3].bn2.eps = 1e-5


def wrong_activation(network: torch.nn.Module) -> None:
    network.blocks[5].act2 = nn.SiLU()


def wrong_gate(network: torch.nn.Module) -> None:
    network.blocks[0].se.gate = nn.Sigmoid()


def missing_gate(network: torch.nn.Module) -> None:
    network.blocks[9].se = nn.Identity()


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (wrong_epsilon, "stem"),
        (wrong_epsilon_in_one_place, "blocks.3"),
        (wrong_activation, "blocks.5"),
        (wrong_gate, "blocks.0"),
        (missing_gate, "blocks.9"),
    ],
)
def test_comparison_detects_a_mistake(change: Callable[[torch.nn.Module], None], stage: str) -> None:
    found = differences("mobilenet-v3-small", change)
    wrong = [name for name, share in found.items() if not share <= TOLERANCE]
    assert wrong[0] == stage
    assert wrong[-1] == "logits"
