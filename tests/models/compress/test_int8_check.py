"""What static int8 loses decides, on validation images, and the decision is kept with the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from models.architectures.fashion import create
from models.compress.int8_check import FILE, Int8Check, check
from models.train.family import fresh

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("int8", "decision"), [(0.9451, "static int8 will do"), (0.9449, "train-int8 is called for")]
)
def test_half_a_point_decides(int8: float, decision: str, tmp_path: Path) -> None:
    found = Int8Check(0.95, int8, 5000)
    assert str(found).endswith(f"points less where 0.5 are allowed: {decision}")
    found.keep(tmp_path)
    assert Int8Check.kept(tmp_path) == found


def test_no_decision_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    assert Int8Check.kept(tmp_path) is None
    (tmp_path / FILE).write_text('{"fp32": 0.9')
    with pytest.raises(ValueError, match=r"is damaged .* make it again: check-int8"):
        Int8Check.kept(tmp_path)


def test_a_network_is_held_against_itself() -> None:
    network = fresh(create("fashion-standard-equal-macs").design, seed=0).eval()
    images = list(np.random.default_rng(0).normal(0, 1, (80, 1, 1, 28, 28)).astype(np.float32))
    zeros = np.zeros(80, dtype=np.int64)
    found = check(network, images[:16], images, zeros)
    assert found.n == 80
    assert 0 <= found.fp32 <= 1
    # Calibrated on the very images, most answers stay, even of random weights.
    assert abs(found.lost_points) < 50
