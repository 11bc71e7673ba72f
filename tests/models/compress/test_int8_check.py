"""Decision by the loss of static int8, saved with the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from models.architectures.fashion import create
from models.compress.int8_check import FILE, Int8Check, check
from models.train.family import new_network

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("int8", "decision"), [(0.9451, "static int8 is sufficient"), (0.9449, "run train-int8")]
)
def test_int8_check_threshold(int8: float, decision: str, tmp_path: Path) -> None:
    result = Int8Check(0.95, int8, 5000)
    assert str(result).endswith(f"points less (allowed: 0.5): {decision}")
    result.save(tmp_path)
    assert Int8Check.load(tmp_path) == result


def test_missing_and_damaged_int8_check(tmp_path: Path) -> None:
    assert Int8Check.load(tmp_path) is None
    (tmp_path / FILE).write_text('{"fp32": 0.9')
    with pytest.raises(ValueError, match=r"damaged .* run check-int8 again"):
        Int8Check.load(tmp_path)


def test_int8_check_of_untrained_network() -> None:
    network = new_network(create("fashion-standard-equal-macs").design, seed=0).eval()
    images = list(np.random.default_rng(0).normal(0, 1, (80, 1, 1, 28, 28)).astype(np.float32))
    zeros = np.zeros(80, dtype=np.int64)
    result = check(network, images[:16], images, zeros)
    assert result.n == 80
    assert 0 <= result.fp32 <= 1
    # Calibrated on the same images, most classes stay equal, even with random weights.
    assert abs(result.lost_points) < 50
