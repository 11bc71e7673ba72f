"""What others report about the reference networks, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """`top_1`: ImageNet-1k validation, percent; `parameters` and `macs` in millions, as the source counts."""

    top_1: float
    parameters: float
    macs: float
    source: str


TORCHVISION = "torchvision's weights IMAGENET1K_V1 (pytorch.org/vision/stable/models.html)"
LITE = "README of models/official/efficientnet/lite (github.com/tensorflow/tpu)"

PUBLISHED = {
    "mobilenet-v1": Published(70.6, 4.2, 569, "Howard et al. 2017, table 8 (arXiv 1704.04861)"),
    "mobilenet-v2": Published(71.9, 3.50, 301, TORCHVISION),
    "mobilenet-v3-small": Published(67.7, 2.54, 57, TORCHVISION),
    "mobilenet-v3-large": Published(74.0, 5.48, 217, TORCHVISION),
    "shufflenet-v2": Published(69.4, 2.28, 146, "Ma et al. 2018, table 8 (arXiv 1807.11164)"),
    "squeezenet": Published(58.2, 1.24, 349, TORCHVISION),
    "ghostnet": Published(73.9, 5.2, 141, "Han et al. 2020, table 7 (arXiv 1911.11907)"),
    "mnasnet": Published(73.5, 4.38, 314, TORCHVISION),
    "efficientnet-lite0": Published(75.1, 4.7, 407, LITE),
    "efficientnet-lite1": Published(76.7, 5.4, 631, LITE),
    "efficientnet-lite2": Published(77.6, 6.1, 899, LITE),
}
