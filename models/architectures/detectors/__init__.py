"""Object detectors, one file each, and `DETECTORS`, their factories by name."""

from __future__ import annotations

from collections.abc import Callable

from models.architectures.detectors.centerface import CenterFace
from models.architectures.detectors.detector import Detector
from models.architectures.detectors.ssd_mobilenet_v2 import SsdMobileNetV2

DETECTORS: dict[str, Callable[[], Detector]] = {
    "ssd-mobilenet-v2": SsdMobileNetV2,
    "centerface": CenterFace,
}
