"""Interface to the gallery's store, which is authoritative: changes in order, vectors by key."""

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
"""Returns whether each of the keys (N,) may be in a result, bool (N,)."""


@dataclass(frozen=True)
class VectorSource:
    """The embeddings of one gallery by one network: functions that any thread may call."""

    changes_after: Callable[[int, int], Sequence[Change]]
    """Returns the changes after a sequence number, in order, up to a limit; of each image only the latest."""
    vectors: Callable[[Keys], tuple[Keys, Vectors]]
    """Returns which of the keys still have a vector, in any order, and these vectors."""
    extent: Callable[[], Extent]
    """Returns the number of the last change and the number of embeddings, in one consistent read."""
    meeting: Callable[[Keys, Sequence[Condition]], NDArray[np.bool_]]
    """Returns whether each of the keys (N,) meets all conditions, bool (N,)."""
