"""Every registered network: shapes, finite outputs, gradients everywhere, the same logits in ONNX; widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.architectures import ARCHITECTURES  # noqa: E402
from models.architectures.initialise import randomise  # noqa: E402
from models.architectures.width import scaled_channels  # noqa: E402
from models.export.to_onnx import export  # noqa: E402
from models.onnx_tools.session import open_session  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_network(name: str, tmp_path: Path) -> None:
    network = ARCHITECTURES.create(name, classes=10).train()
    images = torch.randn(2, network.input_channels, network.input_size, network.input_size)
    features = network.forward_features(images)
    embedding = network.forward_head(features, pre_logits=True)
    logits = network.forward_head(features)
    assert features.ndim == 4
    assert embedding.ndim == 2
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key

    randomise(network, 2, images)
    network.eval()
    with torch.no_grad():
        features = network.forward_features(images)
        expected = network(images)
        assert torch.equal(expected, network.forward_head(features))
        if isinstance(network.classifier, torch.nn.Linear):
            embedding = network.forward_head(features, pre_logits=True)
            assert embedding.shape == (2, network.classifier.in_features)
            assert torch.equal(expected, network.classifier(embedding))
        assert torch.isfinite(expected).all()
        assert expected.std() >= 0.1

    export(network, tmp_path / "model.onnx", images.numpy())
    (found,) = open_session(tmp_path / "model.onnx").run(["logits"], {"image": images.numpy()})
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * float(expected.std())


@pytest.mark.parametrize("name", ["mobilenet-v1", "shufflenet-v2", "efficientnet-lite0"])
def test_embedding_is_the_mean_of_features(name: str) -> None:
    network = ARCHITECTURES.create(name, classes=10).eval()
    with torch.no_grad():
        features = network.forward_features(torch.randn(2, 3, network.input_size, network.input_size))
        embedding = network.forward_head(features, pre_logits=True)
    assert torch.allclose(embedding, features.mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("width_multiplier", [0.3, 0.5, 1.5])
def test_channels_at_other_widths(name: str, width_multiplier: float) -> None:
    network = ARCHITECTURES.create(name, classes=10, width_multiplier=width_multiplier)
    convolutions = {
        key: module
        for key, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d) and key != "classifier"
    }
    # Of a Ghost module each half is a convolution's; those of the published network are multiples of 4 too.
    step = 4 if name == "ghostnet" else 8
    uneven = {key: module.out_channels for key, module in convolutions.items() if module.out_channels % step}
    assert uneven == {}
    plain = ARCHITECTURES.create(name, classes=10)
    count = [sum(p.numel() for p in one.parameters()) for one in (network, plain)]
    assert (count[0] < count[1]) == (width_multiplier < 1)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_width_multiplier_too_small(name: str) -> None:
    for width_multiplier in (0, -1, 0.001, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"width multiplier: .* leaves none of \d+ channels \(allowed: "):
            ARCHITECTURES.create(name, width_multiplier=width_multiplier)


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
        (116, 1.0, 116),
        (116, 0.5, 56),
    ],
)
def test_scaled_channels(channels: int, multiplier: float, expected: int) -> None:
    assert scaled_channels(channels, multiplier) == expected
