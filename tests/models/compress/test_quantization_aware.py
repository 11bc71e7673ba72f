"""Folding of batch norms, and fake quantization."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.architectures.fashion import DESIGNS  # noqa: E402
from models.architectures.folded import fold_batch_norms  # noqa: E402
from models.compress.quantization_aware import fake_quantization  # noqa: E402
from tests.models.architectures.test_designed import used  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", list(DESIGNS))
def test_folding_preserves_outputs(name: str) -> None:
    network = used(name)
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network)
        after = network(images)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert before.std() > 0.1
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max().clamp_min(1)))


@pytest.mark.parametrize("name", ["fashion-inverted-residual-se", "fashion-depthwise-separable"])
def test_fake_quantization_trains_and_is_undone(name: str) -> None:
    network = used(name)
    fold_batch_norms(network)
    images = torch.randn(16, 1, 28, 28)
    with torch.no_grad():
        exact = network(images)
    with fake_quantization(network):
        for _ in range(60):
            network(images)
        quantized = network(images)
        quantized.square().sum().backward()
    difference = (quantized - exact).abs().mean() / exact.std()
    assert 1e-4 < difference < 0.3
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
    with torch.no_grad():
        assert torch.equal(network(images), exact)


def test_fake_quantized_weights_have_255_steps() -> None:
    network = used("fashion-depthwise-separable")
    fold_batch_norms(network)
    seen: list[torch.Tensor] = []
    convolution = network.blocks[3].conv_pw
    with fake_quantization(network), torch.no_grad():
        hook = convolution.register_forward_pre_hook(lambda m, _i: seen.append(m.weight))
        network(torch.randn(2, 1, 28, 28))
        hook.remove()
    weight = seen[0]
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    steps = weight / scale
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert not torch.equal(weight, convolution.weight)
