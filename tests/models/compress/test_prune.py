"""Pruning: cost, multiples of 8, and rebuilding from shapes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.architectures.fashion import create  # noqa: E402
from models.architectures.resized import resize, shapes_of  # noqa: E402
from models.compress.prune import pruned  # noqa: E402
from models.cost.profiling import profile  # noqa: E402
from models.export.to_onnx import export  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(
    "name", ["fashion-depthwise-separable", "fashion-inverted-residual-se", "fashion-standard-equal-macs"]
)
def test_pruned_channels_are_multiples_of_eight(name: str, share: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create(name).eval()
    before = copy.deepcopy(network.state_dict())
    smaller = pruned(network, share)
    fewer = 1 - profile(smaller, 28, 1).macs / profile(network, 28, 1).macs
    assert share <= fewer < share + 0.12
    for module in smaller.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.out_channels % 8 == 0
            assert module.groups in (1, module.in_channels)
    assert smaller.classifier.out_features == 10
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())

    again = create(name)
    resize(again, shapes_of(smaller))
    again.load_state_dict(smaller.state_dict())
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), smaller.eval()(images))
    export(again, tmp_path / "model.onnx", images.numpy().astype(np.float32))


def test_least_important_channels_are_pruned() -> None:
    torch.manual_seed(0)
    network = create("fashion-standard-equal-macs").eval()
    weak = network.blocks[4].conv
    with torch.no_grad():
        weak.weight[:40] *= 1e-4
        network.blocks[4].bn.weight[:40] *= 1e-4
    smaller = pruned(network, 0.2)
    assert smaller.blocks[4].conv.out_channels < network.blocks[4].conv.out_channels - 15
    remaining = smaller.blocks[4].conv.weight.abs().amax((1, 2, 3))
    assert (remaining > 1e-2).sum() == 40


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_share_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        pruned(create("fashion-fire"), share)


def test_unreachable_share_and_unprunable_block() -> None:
    with pytest.raises(ValueError, match=r"99% of \d+ .*allowed: down to \d+"):
        pruned(create("fashion-fire").eval(), 0.99)
    with pytest.raises(ValueError, match="shuffle blocks: cannot be pruned"):
        pruned(create("fashion-shuffle"), 0.3)


def test_shapes_of_another_network() -> None:
    with pytest.raises(ValueError, match="shapes: of another network"):
        resize(create("fashion-fire"), shapes_of(create("fashion-ghost")))
