"""What the index asks of the gallery's store, which is the truth: changes in order, and vectors by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Change, Extent

Vectors = NDArray[np.float32]
"""Rows of length 1, float32 (N, D)."""
Keys = NDArray[np.int64]
Scores = NDArray[np.float32]
"""Cosines, float32 (N,)."""
Keep = Callable[[Keys], NDArray[np.bool_]]
"""Which of these keys (N,) may be found, bool (N,)."""


class VectorSource(Protocol):
    """The embeddings of one gallery by one network. Every call may come from any thread."""

    def changes_after(self, sequence: int, limit: int) -> Sequence[Change]:
        """Up to `limit` changes after `sequence`, ascending; of a row only its latest. Empty at the end."""

    def vectors(self, keys: Keys) -> tuple[Keys, Vectors]:
        """Those of `keys` whose rows are still there, in any order, with their vectors."""

    def extent(self) -> Extent:
        """How far it goes, in one consistent read."""
