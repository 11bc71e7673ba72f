"""int8 against fp32 in `make bench`, by the project's own instrument."""

from __future__ import annotations

import pytest

from benchmarks.http import precision
from models.cost.latency import Effort

pytestmark = pytest.mark.fault


def test_precision_figures() -> None:
    figures = precision(Effort(rounds=2, runs=2))
    assert [figure.name.strip() for figure in figures[::2]] == [
        f"efficientnet-lite{size}, fp32" for size in range(3)
    ]
    assert all(figure.rounds == 2 and figure.value > 0 for figure in figures)
    assert all(figure.name.strip() == "int8 / fp32" for figure in figures[1::2])
