"""The depthwise separable block computes what Keras's DepthwiseConv2D and 1x1 Conv2D compute together."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")

# Keras reads it once, when it is imported.
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")

from models.blocks.depthwise_separable import DepthwiseSeparable  # noqa: E402
from models.blocks.norm import TENSORFLOW  # noqa: E402
from models.blocks.padded_conv import NO_PADS, same_pads  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [14, 15])
def test_equal_to_keras(padding: str, stride: int, kernel_size: int, size: int) -> None:
    torch.manual_seed(0)
    pads = same_pads(size, kernel_size, stride) if padding == "same" else NO_PADS
    block = DepthwiseSeparable(6, 10, kernel_size, stride=stride, pads=pads, norm=TENSORFLOW).eval()
    for norm in (block.bn1, block.bn2):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)

    theirs = keras.Sequential(
        [
            keras.layers.Input((size, size, 6)),
            keras.layers.DepthwiseConv2D(kernel_size, strides=stride, padding=padding, use_bias=False),
            keras.layers.BatchNormalization(epsilon=1e-3),
            keras.layers.ReLU(max_value=6),
            keras.layers.Conv2D(10, 1, use_bias=False),
            keras.layers.BatchNormalization(epsilon=1e-3),
            keras.layers.ReLU(max_value=6),
        ]
    )
    depthwise, norm1, _, pointwise, norm2, _ = theirs.layers
    # Theirs are (height, width, in, multiplier) and (height, width, in, out).
    depthwise.set_weights([block.conv_dw.weight.detach().permute(2, 3, 0, 1).numpy()])
    pointwise.set_weights([block.conv_pw.weight.detach().permute(2, 3, 1, 0).numpy()])
    for ours, layer in ((block.bn1, norm1), (block.bn2, norm2)):
        values = (ours.weight, ours.bias, ours.running_mean, ours.running_var)
        layer.set_weights([value.detach().numpy() for value in values])

    image = torch.randn(2, 6, size, size)
    with torch.no_grad():
        found = block(image)
        expected = torch.as_tensor(theirs(image.permute(0, 2, 3, 1).numpy(), training=False))
        expected = expected.cpu().permute(0, 3, 1, 2)
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-5
