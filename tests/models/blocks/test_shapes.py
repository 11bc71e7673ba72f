"""Every block: the size that its docstring states, and a gradient for every parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from models.blocks.bottleneck import Bottleneck  # noqa: E402
from models.blocks.conv_norm_act import ConvNormAct  # noqa: E402
from models.blocks.depthwise_separable import DepthwiseSeparable  # noqa: E402
from models.blocks.fire import Fire  # noqa: E402
from models.blocks.ghost import GhostBottleneck, GhostModule  # noqa: E402
from models.blocks.grouped import GroupedConv  # noqa: E402
from models.blocks.inverted_residual import InvertedResidual  # noqa: E402
from models.blocks.norm import Norm  # noqa: E402
from models.blocks.shuffle import ShuffleUnit  # noqa: E402
from models.blocks.squeeze_excitation import SqueezeExcitation  # noqa: E402

pytestmark = pytest.mark.torch

Make = Callable[[int, int, int, int], torch.nn.Module]

BLOCKS: dict[str, Make] = {
    "standard": lambda i, o, k, s: ConvNormAct(i, o, k, stride=s),
    "standard, biased": lambda i, o, k, s: ConvNormAct(i, o, k, stride=s, norm=None),
    "depthwise separable": lambda i, o, k, s: DepthwiseSeparable(i, o, k, stride=s),
    "grouped": lambda i, o, k, s: GroupedConv(i, o, k, stride=s, groups=4),
    "grouped, shuffled": lambda i, o, k, s: GroupedConv(i, o, k, stride=s, groups=4, shuffle=True),
    "bottleneck": lambda i, o, k, s: Bottleneck(i, o, k, stride=s),
    "bottleneck, grouped": lambda i, o, k, s: Bottleneck(i, o, k, stride=s, groups=2, bottleneck_ratio=0.5),
    "bottleneck, depthwise": lambda i, o, k, s: Bottleneck(i, o, k, stride=s, groups="depthwise"),
    "inverted residual": lambda i, o, k, s: InvertedResidual(i, o, k, stride=s),
    "inverted residual with gates": lambda i, o, k, s: InvertedResidual(
        i, o, k, stride=s, expansion_ratio=2.5, squeezed=4, activation=torch.nn.Hardswish
    ),
    "fire": lambda i, o, k, s: Fire(i, o, k, stride=s, squeeze_ratio=0.25),
    "fire with batch norm": lambda i, o, k, s: Fire(i, o, k, stride=s, squeeze_ratio=0.5, norm=Norm()),
    "ghost module": lambda i, o, k, s: GhostModule(i, o, k, stride=s),
    "ghost": lambda i, o, k, s: GhostBottleneck(i, o, k, stride=s),
    "ghost with gates": lambda i, o, k, s: GhostBottleneck(i, o, k, stride=s, squeezed=4),
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=list(BLOCKS))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(16, 16), (16, 24)])
def test_shapes_and_gradients(make: Make, stride: int, in_channels: int, out_channels: int) -> None:
    for kernel_size, size in ((3, 15), (5, 16)):
        judge(make(in_channels, out_channels, kernel_size, stride), in_channels, out_channels, size, stride)


@pytest.mark.parametrize(("stride", "out_channels"), [(1, 16), (2, 16), (2, 24)])
def test_shapes_and_gradients_of_shuffle_units(stride: int, out_channels: int) -> None:
    for kernel_size, size in ((3, 15), (5, 16)):
        unit = ShuffleUnit(16, out_channels, kernel_size, stride=stride)
        judge(unit, 16, out_channels, size, stride)


def judge(block: torch.nn.Module, in_channels: int, out_channels: int, size: int, stride: int) -> None:
    torch.manual_seed(0)
    output = block(torch.randn(3, in_channels, size, size + 1))
    assert output.shape == (3, out_channels, -(-size // stride), -(-(size + 1) // stride))
    assert torch.isfinite(output).all()
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_squeeze_excitation_scales_channels() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 8, 5, 5) + 0.5
    gates = SqueezeExcitation(8, 4)(image) / image
    assert torch.allclose(gates, gates[:, :, :1, :1].expand_as(gates), atol=1e-6)
    assert gates.min() >= 0
    assert gates.max() <= 1
    assert gates.std() > 1e-3


def test_bottleneck_adds_its_input() -> None:
    block = Bottleneck(16, 16).eval()
    torch.nn.init.zeros_(block.bn3.weight)
    image = torch.randn(2, 16, 7, 7)
    assert torch.equal(block(image), image.relu())


def test_ghost_bottleneck_adds_its_input() -> None:
    block = GhostBottleneck(16, 16).eval()
    for part in (block.narrow.primary.bn, block.narrow.cheap.bn):
        torch.nn.init.zeros_(part.weight)
    image = torch.randn(2, 16, 7, 7)
    assert torch.equal(block(image), image)


def test_shuffle_unit_passes_half_of_the_channels() -> None:
    image = torch.randn(2, 16, 7, 7)
    output = ShuffleUnit(16, 16)(image)
    # Interleaved: the even channels are the half that passed.
    assert torch.equal(output[:, 0::2], image[:, :8])
    assert not torch.equal(output[:, 1::2], image[:, 8:])
