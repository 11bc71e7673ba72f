"""Agreement of two models, with its interval."""

from __future__ import annotations

import numpy as np
import pytest

from models.compress.agreement import compare_logits


def test_agreement_counts_top_1_and_measures_divergence() -> None:
    first = np.array([[0, 1, 2], [3, 0, 0], [0, 5, 0], [1, 0, 0]], dtype=np.float32)
    second = np.array([[0, 1, 2], [0, 3, 0], [0, 5, 0], [1, 0, 0]], dtype=np.float32)
    compared = compare_logits(first, second)
    assert (compared.n, compared.top_1_agreement) == (4, 0.75)
    p = np.exp([3.0, 0, 0]) / np.exp([3.0, 0, 0]).sum()
    assert compared.divergence == pytest.approx((p[0] - p[1]) * 3 / 4, rel=1e-5)
    assert compare_logits(first, first).divergence == pytest.approx(0, abs=1e-9)
    # Adding a constant to all logits of an image changes no probability.
    assert compare_logits(first, first + 100).divergence == pytest.approx(0, abs=1e-5)


def test_logits_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="allowed: one shape"):
        compare_logits(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="allowed: one shape"):
        compare_logits(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
