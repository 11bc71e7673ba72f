"""A small EfficientNet-Lite with random weights and non-trivial batch norms."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures.efficientnet_lite import EfficientNetLite, Variant

SIZE = 64


def small_network(seed: int = 0) -> EfficientNetLite:
    """Return a narrow EfficientNet-Lite for 64 x 64 images and 10 classes, in evaluation mode."""
    torch.manual_seed(seed)
    network = EfficientNetLite(Variant(0.2, 0.5, SIZE, 0.2), classes=10)
    network.classifier.weight.data.normal_(0, 0.5)
    # Identity batch norms would hide errors of folding.
    with torch.no_grad():
        for _ in range(40):
            network(torch.from_numpy(noise(8, int(torch.randint(1 << 30, ())))))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(0, 0.2)
    return network.eval()


def noise(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return random images, float32 (count, 3, 64, 64), with enough coarse detail to excite all layers."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 0.6, (count, 3, SIZE // 8, SIZE // 8))
    fine = random.normal(0, 0.2, (count, 3, SIZE, SIZE))
    return (coarse.repeat(8, axis=2).repeat(8, axis=3) + fine).astype(np.float32)
