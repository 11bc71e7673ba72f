"""Blocks: shapes, padding, the skip connection, and a gradient for every parameter."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.blocks.conv_norm_act import ConvNormAct  # noqa: E402
from models.blocks.inverted_residual import InvertedResidual  # noqa: E402
from models.blocks.padded_conv import NO_PADS, PaddedConv2d, Pads, same_pads  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_output_size(kernel_size: int, stride: int) -> None:
    for size in range(kernel_size, 40):
        pads = same_pads(size, kernel_size, stride)
        assert (size + pads.top + pads.bottom - kernel_size) // stride + 1 == -(-size // stride)
        assert pads.top <= pads.bottom <= pads.top + 1
        assert (pads.top, pads.bottom) == (pads.left, pads.right)


def test_same_padding_equals_tensorflow() -> None:
    assert same_pads(224, 3, 2) == Pads(0, 0, 1, 1)
    assert same_pads(65, 5, 2) == Pads(2, 2, 2, 2)
    assert same_pads(56, 5, 2) == Pads(1, 1, 2, 2)


def test_asymmetric_padding() -> None:
    convolution = PaddedConv2d(1, 1, 3, pads=Pads(top=0, left=1, bottom=2, right=0))
    torch.nn.init.ones_(convolution.weight)
    found = convolution(torch.arange(9.0).reshape(1, 1, 3, 3))
    # Sums of 3x3 windows over the map with a column of zeros before it and two rows behind it.
    assert found.tolist() == [[[[3.0 + 9 + 15 - 3 - 3 + 0, 36.0], [18.0 + 2, 33.0], [13.0, 21.0]]]]


@pytest.mark.parametrize(
    ("block", "size", "expected"),
    [
        (ConvNormAct(8, 24, 3, stride=2, pads=same_pads(15, 3, 2)), 15, (24, 8)),
        (ConvNormAct(8, 24, 1), 15, (24, 15)),
        (ConvNormAct(8, 8, 3, pads=Pads(1, 1, 1, 1), groups=8), 15, (8, 15)),
        (InvertedResidual(8, 8, 3, same_pads(15, 3, 1)), 15, (8, 15)),
        (InvertedResidual(8, 16, 5, same_pads(16, 5, 2), stride=2), 16, (16, 8)),
        (InvertedResidual(8, 16, 3, same_pads(15, 3, 1), expansion_ratio=1), 15, (16, 15)),
    ],
)
def test_shapes_and_gradients(block: torch.nn.Module, size: int, expected: tuple[int, int]) -> None:
    torch.manual_seed(0)
    output = block(torch.randn(2, 8, size, size))
    assert output.shape == (2, expected[0], expected[1], expected[1])
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_skip_connection_for_equal_shapes() -> None:
    assert InvertedResidual(8, 8, 3, same_pads(15, 3, 1)).has_skip
    assert not InvertedResidual(8, 8, 3, same_pads(15, 3, 2), stride=2).has_skip
    assert not InvertedResidual(8, 16, 3, same_pads(15, 3, 1)).has_skip
    block = InvertedResidual(8, 8, 3, same_pads(15, 3, 1)).eval()
    torch.nn.init.zeros_(block.bn3.weight)
    image = torch.randn(2, 8, 15, 15)
    assert torch.equal(block(image), image)


def test_expansion_ratio_of_one() -> None:
    block = InvertedResidual(8, 16, 3, same_pads(15, 3, 1), expansion_ratio=1)
    assert not hasattr(block, "conv_pw")
    assert block.conv_dw.weight.shape == (8, 1, 3, 3)
    assert InvertedResidual(8, 16, 3, NO_PADS, expansion_ratio=4).conv_dw.weight.shape == (32, 1, 3, 3)


def test_relu6_bounds_activations() -> None:
    output = ConvNormAct(3, 8, 1)(torch.randn(4, 3, 9, 9) * 1000)
    assert output.min() >= 0
    assert output.max() <= 6
