"""Arguments that no block can be built from are answered with what was given and what is allowed."""

from __future__ import annotations

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
def test_channels_kernels_and_strides_are_whole_numbers_over_zero(
    block: Callable[..., torch.nn.Module], value: object
) -> None:
    for arguments in ({"in_channels": value}, {"out_channels": value}, {"stride": value}):
        given = {"in_channels": 16, "out_channels": 16, "stride": 2} | arguments
        with pytest.raises(ValueError, match=f"is {value!r}; a whole number of at least 1 is needed"):
            block(**given)
    with pytest.raises(ValueError, match=f"kernel_size is {value!r}; a whole number"):
        block(16, 16, value, stride=2)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=list(BLOCKS))
def test_an_even_kernel_has_no_centre(block: Callable[..., torch.nn.Module]) -> None:
    with pytest.raises(ValueError, match="kernel_size is 4; without pads an odd number is needed"):
        block(16, 16, 4, stride=2)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=list(BLOCKS))
def test_what_makes_no_activation_is_refused(block: Callable[..., torch.nn.Module]) -> None:
    for wrong in ("relu", nn.ReLU(), lambda: "relu"):
        with pytest.raises(ValueError, match="what makes a module is needed"):
            block(16, 16, activation=wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(GroupedConv, 12, 18, groups=4),
            "^4 groups do not divide in_channels 12 and out_channels 18; allowed: 1, 2, 3, 6$",
        ),
        (partial(GroupedConv, 16, 24, groups=16), "16 groups do not divide .* allowed: 1, 2, 4, 8$"),
        (partial(GroupedConv, 16, 16, groups=0), "groups is 0; a whole number of at least 1"),
        (partial(Bottleneck, 16, 64, groups=3), "3 groups do not divide the bottleneck's width 16; allowed"),
        (partial(Bottleneck, 16, 64, groups="dense"), "groups is 'dense'; a whole number"),
        (
            partial(Bottleneck, 16, 64, bottleneck_ratio=0.005),
            "bottleneck_ratio 0.005 leaves no channel of out_channels 64; at least 0.0156 is needed",
        ),
        (partial(Bottleneck, 16, 64, bottleneck_ratio=-1), "bottleneck_ratio -1 leaves no channel"),
        (partial(InvertedResidual, 8, 8, expansion_ratio=0.01), "expansion_ratio 0.01 leaves no channel of"),
        (partial(InvertedResidual, 8, 8, expansion_ratio=float("nan")), "expansion_ratio nan leaves no"),
        (partial(InvertedResidual, 8, 8, squeezed=0), "out_channels is 0"),
        (partial(SqueezeExcitation, 8, 0), "out_channels is 0"),
        (partial(Fire, 8, 8, squeeze_ratio=0.05), "squeeze_ratio 0.05 leaves no channel of out_channels 8"),
        (partial(Fire, 8, 9), "out_channels is 9; an even number is needed"),
        (partial(GhostModule, 8, 9), "ratio is 2; a number of at least 2 that divides out_channels 9"),
        (partial(GhostModule, 8, 8, ratio=1), "ratio is 1; a number of at least 2"),
        (partial(GhostBottleneck, 8, 8, expansion_ratio=0), "expansion_ratio 0 leaves no channel"),
        (partial(ShuffleUnit, 9, 9), "out_channels is 9; an even number"),
        (partial(ShuffleUnit, 8, 16), "stride 1 keeps its channels; given: 8 in, 16 out"),
        (partial(channel_shuffle, torch.zeros(1, 6, 2, 2), 4), "4 groups do not divide channels 6"),
        (
            partial(PaddedConv2d, 8, 8, 3, pads=Pads(1, 1, -1, 1)),
            r"pads are \(1, 1, -1, 1\); none may be below 0",
        ),
        (partial(same_pads, 0, 3, 1), "size is 0"),
        (partial(Norm, eps=0), "eps is 0; more than 0"),
        (partial(Norm, momentum=1.5), "momentum is 1.5; more than 0 and at most 1"),
    ],
)
def test_the_error_says_what_is_allowed(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
