"""Invalid arguments of blocks: the error names the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from models.blocks.bottleneck import Bottleneck  # noqa: E402
from models.blocks.conv_norm_act import ConvNormAct  # noqa: E402
from models.blocks.depthwise_separable import DepthwiseSeparable  # noqa: E402
from models.blocks.fire import Fire  # noqa: E402
from models.blocks.ghost import GhostBottleneck, GhostModule  # noqa: E402
from models.blocks.grouped import GroupedConv  # noqa: E402
from models.blocks.inverted_residual import InvertedResidual  # noqa: E402
from models.blocks.norm import Norm  # noqa: E402
from models.blocks.padded_conv import PaddedConv2d, Pads, same_pads  # noqa: E402
from models.blocks.shuffle import ShuffleUnit, channel_shuffle  # noqa: E402
from models.blocks.squeeze_excitation import SqueezeExcitation  # noqa: E402

pytestmark = pytest.mark.torch

BLOCKS: dict[str, Callable[..., torch.nn.Module]] = {
    "standard": ConvNormAct,
    "depthwise separable": DepthwiseSeparable,
    "grouped": partial(GroupedConv, groups=2),
    "bottleneck": Bottleneck,
    "inverted residual": InvertedResidual,
    "shuffle": ShuffleUnit,
    "fire": Fire,
    "ghost": GhostBottleneck,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=list(BLOCKS))
@pytest.mark.parametrize("value", [0, -8, 7.5, True, "8"])
def test_invalid_channels_kernels_and_strides(block: Callable[..., torch.nn.Module], value: object) -> None:
    for arguments in ({"in_channels": value}, {"out_channels": value}, {"stride": value}):
        given = {"in_channels": 16, "out_channels": 16, "stride": 2} | arguments
        with pytest.raises(ValueError, match=re.escape(f": {value!r} (allowed: a whole number, 1 or more)")):
            block(**given)
    with pytest.raises(ValueError, match=re.escape(f"kernel_size: {value!r} (allowed: a whole number")):
        block(16, 16, value, stride=2)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=list(BLOCKS))
def test_even_kernel_size(block: Callable[..., torch.nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"kernel_size: 4 \(allowed: an odd number"):
        block(16, 16, 4, stride=2)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=list(BLOCKS))
def test_invalid_activation(block: Callable[..., torch.nn.Module]) -> None:
    for wrong in ("relu", nn.ReLU(), lambda: "relu"):
        with pytest.raises(ValueError, match="a factory of modules"):
            block(16, 16, activation=wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(GroupedConv, 12, 18, groups=4),
            r"^groups: 4 do not divide in_channels 12 and out_channels 18 \(allowed: 1, 2, 3, 6\)$",
        ),
        (partial(GroupedConv, 16, 24, groups=16), r"groups: 16 do not divide .* \(allowed: 1, 2, 4, 8\)$"),
        (partial(GroupedConv, 16, 16, groups=0), r"groups: 0 \(allowed: a whole number, 1 or more\)"),
        (
            partial(Bottleneck, 16, 64, groups=3),
            r"groups: 3 do not divide the bottleneck's width 16 \(allowed",
        ),
        (partial(Bottleneck, 16, 64, groups="dense"), r"groups: 'dense' \(allowed: a whole number"),
        (
            partial(Bottleneck, 16, 64, bottleneck_ratio=0.005),
            r"bottleneck_ratio: 0.005 leaves no channel of out_channels 64 \(allowed: 0.0156 or more\)",
        ),
        (partial(Bottleneck, 16, 64, bottleneck_ratio=-1), "bottleneck_ratio: -1 leaves no channel"),
        (partial(InvertedResidual, 8, 8, expansion_ratio=0.01), "expansion_ratio: 0.01 leaves no channel of"),
        (partial(InvertedResidual, 8, 8, expansion_ratio=float("nan")), "expansion_ratio: nan leaves no"),
        (partial(InvertedResidual, 8, 8, squeezed=0), "out_channels: 0 "),
        (partial(SqueezeExcitation, 8, 0), "out_channels: 0 "),
        (partial(Fire, 8, 8, squeeze_ratio=0.05), "squeeze_ratio: 0.05 leaves no channel of out_channels 8"),
        (partial(Fire, 8, 9), r"out_channels: 9 .*\(allowed: an even number\)"),
        (partial(GhostModule, 8, 9), r"ratio: 2 \(allowed: 2 or more, a divisor of out_channels 9"),
        (partial(GhostModule, 8, 8, ratio=1), r"ratio: 1 \(allowed: 2 or more"),
        (partial(GhostBottleneck, 8, 8, expansion_ratio=0), "expansion_ratio: 0 leaves no channel"),
        (partial(ShuffleUnit, 9, 9), "out_channels: 9 cannot be split"),
        (
            partial(ShuffleUnit, 8, 16),
            r"out_channels: 16 \(allowed with stride 1: as many as in_channels, 8\)",
        ),
        (partial(channel_shuffle, torch.zeros(1, 6, 2, 2), 4), "groups: 4 do not divide channels 6"),
        (
            partial(PaddedConv2d, 8, 8, 3, pads=Pads(1, 1, -1, 1)),
            r"pads: \(1, 1, -1, 1\) \(allowed: 0 or more each\)",
        ),
        (partial(same_pads, 0, 3, 1), "size: 0 "),
        (partial(Norm, eps=0), r"eps: 0 \(allowed: more than 0\)"),
        (partial(Norm, momentum=1.5), r"momentum: 1.5 \(allowed: more than 0, at most 1\)"),
    ],
)
def test_error_names_the_allowed_values(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
