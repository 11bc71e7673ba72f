"""What the index reads of the gallery's store, which is authoritative: changes in order, vectors by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Change, Condition, Extent

Vectors = NDArray[np.float32]
"""Rows of length 1, float32 (N, D)."""
Keys = NDArray[np.int64]
Scores = NDArray[np.float32]
"""Cosines, float32 (N,)."""
Keep = Callable[[Keys], NDArray[np.bool_]]
"""Which of these keys (N,) may be found, bool (N,)."""


@dataclass(frozen=True)
class VectorSource:
    """The embeddings of one gallery by one network: functions that any thread may call."""

    changes_after: Callable[[int, int], Sequence[Change]]
    """Up to a limit of changes after a sequence, ascending; of a row only its latest. Empty at the end."""
    vectors: Callable[[Keys], tuple[Keys, Vectors]]
    """Those of some keys whose rows are still there, in any order, with their vectors."""
    extent: Callable[[], Extent]
    """How far the changes go, in one consistent read."""
    meeting: Callable[[Keys, Sequence[Condition]], NDArray[np.bool_]]
    """Which of some keys (N,) meet all conditions, bool (N,)."""
