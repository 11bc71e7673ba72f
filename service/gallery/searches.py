"""The search that answers at the moment: opened when it is first needed, and anew for another network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from service.gallery.nearest import NearestImages
from service.gallery.records import EmbeddersChanged, SearchStatus

T = TypeVar("T")

OpenNearest = Callable[[str, int], NearestImages]
"""Opens the search by an embedder whose embeddings have so many dimensions."""


class Searches:
    """Methods may be called by any thread.

    No search is open by an embedder that does not answer: its embeddings are being dropped, or do not all
    exist yet, and an index that followed them would take what is missing for gone.
    """

    def __init__(self, open_nearest: OpenNearest, answering: Callable[[], str | None]) -> None:
        """Opens nothing yet. `answering`: the embedder that answers at the moment."""
        self._open = open_nearest
        self._answering = answering
        self._lock = threading.Lock()
        self._embedder: str | None = None
        self._nearest: NearestImages | None = None

    def by(self, embedder: str, dimensions: int) -> NearestImages:
        """The search by this embedder. Blocks while it is opened; what searched before is closed.

        Raises EmbeddersChanged when another one answers.
        """
        with self._lock:
            if self._nearest is not None and self._embedder == embedder:
                return self._nearest
            if self._answering() != embedder:
                raise EmbeddersChanged
            self._close()
            self._nearest, self._embedder = self._open(embedder, dimensions), embedder
            return self._nearest

    def changing(self, work: Callable[[], T]) -> T:
        """Do what may let another embedder answer, on the thread that writes, and close a search that does
        not answer any more before anything else is written."""
        with self._lock:
            try:
                result = work()
                still = self._nearest is None or self._answering() == self._embedder
            except BaseException:
                self._close()  # who knows whether it was done
                raise
            if not still:
                self._close()
            return result

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
