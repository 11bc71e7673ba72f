"""The search that answers at the moment: opened when it is first needed, and anew for another network."""

from __future__ import annotations

import threading
from collections.abc import Callable

from service.gallery.nearest import NearestImages, SearchStatus

OpenNearest = Callable[[str, int], NearestImages]
"""Opens the search by an embedder whose embeddings have so many dimensions."""


class Searches:
    """Methods may be called by any thread."""

    def __init__(self, open_nearest: OpenNearest) -> None:
        """Opens nothing yet."""
        self._open = open_nearest
        self._lock = threading.Lock()
        self._embedder: str | None = None
        self._nearest: NearestImages | None = None

    def by(self, embedder: str, dimensions: int) -> NearestImages:
        """The search by this embedder. Blocks while it is opened; what searched before is closed."""
        with self._lock:
            if self._nearest is not None and self._embedder == embedder:
                return self._nearest
            self._close()
            self._nearest, self._embedder = self._open(embedder, dimensions), embedder
            return self._nearest

    def changed(self) -> None:
        """The store has committed a change."""
        nearest = self._nearest
        if nearest is not None:
            nearest.changed()

    @property
    def status(self) -> SearchStatus | None:
        """How searches go; None while nothing was searched for."""
        nearest = self._nearest
        return None if nearest is None else nearest.status

    def close(self) -> None:
        """Close the search, if one is open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        nearest, self._nearest, self._embedder = self._nearest, None, None
        if nearest is not None:
            nearest.close()
