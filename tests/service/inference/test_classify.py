"""Logits to predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.inference.classify import most_probable, top_predictions

LABELS = [f"thing {i}" for i in range(10)]


@pytest.mark.slow
@given(
    arrays(np.float32, 10, elements=st.floats(-1e4, 1e4, width=32)),
    st.integers(1, 10),
)
def test_top_predictions(logits: np.ndarray, k: int) -> None:
    predictions = top_predictions(logits, LABELS, k)
    assert len(predictions) == k
    expected = sorted(range(10), key=lambda i: (-float(logits[i]), i))
    assert [p.class_id for p in predictions] == expected[:k]
    assert [p.label for p in predictions] == [LABELS[i] for i in expected[:k]]
    assert [p.probability for p in predictions] == sorted((p.probability for p in predictions), reverse=True)
    assert sum(p.probability for p in top_predictions(logits, LABELS, 10)) == pytest.approx(1)


@given(arrays(np.float32, 10, elements=st.sampled_from([-1.0, 0.0, 2.0])), st.integers(1, 10))
def test_many_ties(logits: np.ndarray, k: int) -> None:
    expected = sorted(range(10), key=lambda i: (-float(logits[i]), i))
    assert most_probable(logits, k).tolist() == expected[:k]


@pytest.mark.parametrize("k", [1, 5, 60, 300])
@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0] * 80 + [1.0, 2.0], list(range(300))])
def test_ties_of_many_classes(values: list[float], k: int) -> None:
    logits = np.random.default_rng(0).choice(np.array(values, dtype=np.float32), 300)
    expected = sorted(range(300), key=lambda i: (-float(logits[i]), i))
    assert most_probable(logits, k).tolist() == expected[:k]


def test_ties_are_ordered_by_class() -> None:
    logits = np.zeros(10, np.float32)
    assert [p.class_id for p in top_predictions(logits, LABELS, 3)] == [0, 1, 2]


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([3e38, -3e38] + [0.0] * 8, np.float32)
    first = top_predictions(logits, LABELS, 1)[0]
    assert (first.class_id, first.probability) == (0, 1.0)
