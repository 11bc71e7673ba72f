"""Decide whether static int8 suffices for a trained network, by its accuracy on validation images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.architectures.designed import DesignedNetwork
from models.export.to_onnx import export
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.onnx_tools.session import open_session, run
from models.zoo.files import write_whole

FILE = "int8-check.json"
ALLOWED_POINTS = 0.5
"""Largest acceptable loss of accuracy by static int8, in percentage points.

If the loss is larger, quantization-aware training is needed.
"""


@dataclass(frozen=True)
class Int8Check:
    """Accuracies (0 to 1) of a network in fp32 and in static int8, on the same `n` validation images."""

    fp32: float
    int8: float
    n: int

    @property
    def lost_points(self) -> float:
        """Loss of accuracy by int8, in percentage points. It is negative if int8 is more accurate."""
        return 100 * (self.fp32 - self.int8)

    @property
    def sufficient(self) -> bool:
        """Whether static int8 loses no more than ALLOWED_POINTS."""
        return self.lost_points <= ALLOWED_POINTS

    def __str__(self) -> str:
        decision = "static int8 is sufficient" if self.sufficient else "run train-int8"
        return (
            f"{self.fp32:.2%} in fp32, {self.int8:.2%} in static int8 on {self.n} validation images, "
            f"{self.lost_points:.2f} points less (allowed: {ALLOWED_POINTS}): {decision}"
        )

    def save(self, folder: Path) -> None:
        """Write the check into a training's folder, atomically."""
        write_whole(folder / FILE, (json.dumps(asdict(self)) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Int8Check | None:
        """Return the check stored in a training's folder, or None if no check is stored there.

        Raises ValueError for a damaged file.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); run check-int8 again") from None


def check(
    network: DesignedNetwork,
    calibration: Sequence[NDArray[np.float32]],
    images: Sequence[NDArray[np.float32]],
    classes: NDArray[np.int64],
) -> Int8Check:
    """Quantize `network`, calibrated on `calibration`, and compare its accuracy before and after on `images`.

    `network` is in evaluation mode. Each image is float32 (1, channels, height, width), `classes` is int64
    (len(images),).
    """
    with tempfile.TemporaryDirectory() as temporary:
        floating, integer = Path(temporary) / "model.onnx", Path(temporary) / "int8.onnx"
        export(network, floating, np.concatenate(calibration[:64]))
        quantize(floating, integer, list(calibration), QuantizationPlan())
        before, after = (
            float((run(open_session(path), images).argmax(1) == classes).mean())
            for path in (floating, integer)
        )
    return Int8Check(round(before, 6), round(after, 6), len(images))
