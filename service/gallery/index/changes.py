"""What the index needs from the gallery's store: changes in order, and vectors by key.

If the index and the store differ, the store is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Change, Condition, Extent

Vectors = NDArray[np.float32]
"""Embeddings, float32 (N, D). Each row has length 1."""
Keys = NDArray[np.int64]
Scores = NDArray[np.float32]
"""Cosines, float32 (N,)."""
Keep = Callable[[Keys], NDArray[np.bool_]]
"""Function that returns, for each of the keys (N,), whether this image may be in a result, bool (N,)."""


@dataclass(frozen=True)
class VectorSource:
    """Reads the embeddings of one gallery by one network. Its functions may be called from any thread."""

    changes_after: Callable[[int, int], Sequence[Change]]
    """Returns the changes after a sequence number, in order, up to a limit.

    If an image has several changes, only the latest is returned."""
    vectors: Callable[[Keys], tuple[Keys, Vectors]]
    """Returns which of the keys still have a vector, in any order, and these vectors."""
    extent: Callable[[], Extent]
    """Returns the number of the last change and the number of embeddings, in one consistent read."""
    meeting: Callable[[Keys, Sequence[Condition]], NDArray[np.bool_]]
    """Returns, for each of the keys (N,), whether this image meets all conditions, bool (N,)."""
