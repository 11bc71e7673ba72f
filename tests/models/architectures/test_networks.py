"""Every registered network: shapes, finite outputs, gradients everywhere, one path to the logits."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.architectures import ARCHITECTURES  # noqa: E402
from models.architectures.efficientnet_lite import scaled_channels  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_outputs_and_gradients(name: str) -> None:
    network = ARCHITECTURES.create(name, classes=10).train()
    images = torch.randn(2, 3, network.input_size, network.input_size)
    features = network.forward_features(images)
    embedding = network.forward_head(features, pre_logits=True)
    logits = network.forward_head(features)
    assert features.ndim == 4
    assert embedding.shape == (2, features.shape[1]) == (2, network.classifier.in_features)
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_features_embedding_and_logits_share_one_path(name: str) -> None:
    network = ARCHITECTURES.create(name, classes=10).eval()
    images = torch.randn(2, 3, network.input_size, network.input_size)
    with torch.no_grad():
        features = network.forward_features(images)
        embedding = network.forward_head(features, pre_logits=True)
        assert torch.equal(network(images), network.forward_head(features))
        assert torch.equal(network(images), network.classifier(embedding))
        assert torch.allclose(embedding, features.mean((2, 3)), atol=1e-5)
        assert network(images).std() > 1e-3


@pytest.mark.parametrize(
    ("channels", "multiplier", "expected"),
    [
        (32, 1.0, 32),
        (24, 1.1, 24),
        (40, 1.1, 48),
        (80, 1.1, 88),
        (112, 1.1, 120),
        (192, 1.1, 208),
        (8, 0.1, 8),
    ],
)
def test_channels_are_scaled_to_multiples_of_eight(channels: int, multiplier: float, expected: int) -> None:
    assert scaled_channels(channels, multiplier) == expected
