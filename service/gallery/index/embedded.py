"""Search of a gallery in SQLite. It is exact for a small gallery, and uses an HNSW graph for a large one.

The graph is a cache. A separate thread adds the store's changes to it. A search reads from the store those
changes that are not in the graph yet. So it covers every acknowledged image and no deleted image, even while
a large graph is being built.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import structlog

from service.gallery.index import saved
from service.gallery.index.changes import Keep, Keys, Scores, VectorSource
from service.gallery.index.graph import Graph
from service.gallery.index.ranking import STREAM_ROWS, Candidates, best, nearest, with_tail
from service.gallery.records import Change, Condition, SearchStatus, Vector

log = structlog.get_logger(__name__)

EXACT_UP_TO = 20_000
"""Number of images up to which a query is compared with every vector. docs/retrieval.md has the cost."""
REBUILD_DEAD_SHARE = 0.2
"""Share of dead nodes from which on the graph is rebuilt, if there are at least REBUILD_DEAD_NODES."""
REBUILD_DEAD_NODES = 256
ADD_AT_ONCE = 8
"""Number of vectors that are added to the graph while its lock is held.

With 100 000 images, searches wait about 5 ms for the lock."""
SAVE_AFTER_CHANGES = 1_000
SAVE_EVERY_S = 30.0
"""The graph is saved after at least this many seconds and SAVE_AFTER_CHANGES changes.

Changes that are lost in a crash are added again at the next start."""
IDLE_S = 30.0
"""Seconds without a change after which the thread checks that the graph belongs to this database."""
RETRY_S = 5.0
NICENESS = 5
"""Niceness of the thread that updates the graph: a slightly lower priority than that of requests.

It is only slightly lower, because searches wait while vectors are added."""

Mode = Literal["streaming", "exact", "hnsw"]


@dataclass(frozen=True)
class IndexStatus(SearchStatus):
    """Status of the index, which contains the changes up to `sequence`.

    `dead`: number of deleted nodes, which stay until the index is rebuilt. `mode`: how searches work now. It
    is "streaming" until the index is complete. Searches in this mode are exact, too.
    """

    mode: Mode
    dead: int
    sequence: int


class EmbeddedSearch:
    """Finds the nearest images of one gallery by the embeddings of one network. Thread-safe.

    `close` ends the thread that keeps the index up to date.
    """

    def __init__(
        self,
        source: VectorSource,
        dimensions: int,
        *,
        model: str,
        folder: Path | None,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        """Read the index in `folder`, or start with an empty index if there is none that can be used.

        No other object may use `folder`. If it is None, nothing is saved. The constructor blocks while the
        file is read, but not while the index is built.
        """
        self._source = source
        self._dimensions = dimensions
        self._model = model
        self._folder = folder
        self._exact_up_to = exact_up_to
        self._lock = threading.Lock()  # guards the graph and its sequence
        self._graph = Graph(dimensions)
        self._sequence = 0
        self._complete = False  # whether the graph has ever been up to date; until then, searches are exact
        self._saved = (0, time.monotonic())  # sequence and time of the last save
        self._announced_lock = threading.Lock()
        self._announced = 1  # number of announcements of changes
        self._followed = 0  # number of announcements whose changes are in the graph
        self._settled = 0  # number of announcements after which rebuilding and saving were done, too
        self._pass_ended = threading.Condition()
        self._wake = threading.Event()
        self._closing = threading.Event()
        if folder is not None:
            self._read(folder)
        self._thread = threading.Thread(target=self._follow, name="gallery-index", daemon=True)
        self._thread.start()

    @property
    def sequence(self) -> int:
        """Number of the last change in the index."""
        return self._sequence

    @property
    def status(self) -> IndexStatus:
        """The current status of the index."""
        with self._lock:
            mode: Mode = "exact" if self._graph.nodes <= self._exact_up_to else "hnsw"
            return IndexStatus(
                mode=mode if self._complete else "streaming",
                indexed=len(self._graph),
                dead=len(self._graph.dead),
                sequence=self._sequence,
            )

    def notify(self) -> None:
        """Announce that a change was committed. Searches that begin afterwards include this change."""
        with self._announced_lock:
            self._announced += 1
        self._wake.set()

    def nearest(self, query: Vector, k: int, where: Sequence[Condition]) -> tuple[Keys, Scores]:
        """Return the keys and cosines of the `k` nearest images that meet all conditions in `where`.

        They are ordered, and errors are raised, as `search` describes.
        """
        return self.search(query, k, (lambda keys: self._source.meeting(keys, where)) if where else None)

    def search(self, query: Vector, k: int, keep: Keep | None = None) -> tuple[Keys, Scores]:
        """Return the keys of the `k` nearest images that pass `keep`, int64, and their cosines, float32.

        The nearest image comes first. Images with equal cosines are ordered by key. If fewer than `k` images
        pass, all of these are returned. `query`: float32 (D,), of length 1. Raises ValueError for any other
        type or shape, and the errors of reading the store.
        """
        if query.dtype != np.float32 or query.shape != (self._dimensions,):
            raise ValueError(f"query is {query.dtype} {query.shape}; float32 ({self._dimensions},) is needed")

        def look(count: int | None, wide: bool) -> Candidates:
            with self._lock:
                nodes = self._graph.nodes
                exact = wide or not self._complete or nodes <= self._exact_up_to
                count = nodes if count is None else count
                keys, rough = self._graph.nearest(query, count, exact=exact)
                return Candidates(keys, rough, exact, exact and count >= nodes, self._sequence)

        behind = self._followed != self._announced  # read before the graph, which may catch up at any moment
        keys, scores, sequence = nearest(look, self._source, query, k, keep)
        if behind:
            keys, scores = with_tail(self._source, query, keep, sequence, (keys, scores), k)
        return best(keys, scores, k)

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Wait until all announced changes are in the index and no rebuild is running or due.

        Return False if this takes longer than `timeout_s`.
        """
        with self._pass_ended:
            return self._pass_ended.wait_for(lambda: self._settled == self._announced, timeout_s)

    def close(self) -> None:
        """End the thread and save the index."""
        self._closing.set()
        self._wake.set()
        self._thread.join()
        try:
            self._save()
        except OSError as error:
            log.warning("the gallery's index cannot be saved", error=str(error))

    def _read(self, folder: Path) -> None:
        try:
            kept = saved.read(folder, model=self._model, dimensions=self._dimensions)
        except saved.UnusableIndex as error:
            log.warning("the gallery's index cannot be used and is built anew", reason=str(error))
            return
        if kept is not None:
            self._graph, self._sequence = kept
            self._saved = (self._sequence, time.monotonic())

    def _follow(self) -> None:
        """Keep the index up to date until `close` is called. This is what the thread runs.

        It adds changes, rebuilds a graph with too many dead nodes, and saves the graph.
        """
        if sys.platform == "linux":  # the only system where each thread has its own niceness
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        idle = False
        while not self._closing.is_set():
            try:
                self._add_changes()
                if idle or not self._complete:
                    self._check()
                self._rebuild_if_due()
                self._save_if_due()
            except Exception as error:  # e.g. store unreachable or disk full; searches read the store
                log.warning("the gallery's index cannot follow", error=str(error))
                self._closing.wait(RETRY_S)
                continue
            with self._pass_ended:
                self._settled = self._followed
                self._pass_ended.notify_all()
            idle = not self._wake.wait(IDLE_S)

    def _add_changes(self) -> None:
        """Add the store's changes to the graph until there are no more changes."""
        while not self._closing.is_set():
            self._wake.clear()
            announced = self._announced
            changes = self._source.changes_after(self._sequence, STREAM_ROWS)
            if not changes:
                self._followed = announced
                return
            for start in range(0, len(changes), ADD_AT_ONCE):
                with self._lock:
                    self._sequence = apply(self._graph, changes[start : start + ADD_AT_ONCE])
                if self._closing.is_set():
                    return

    def _check(self) -> None:
        """Check whether the graph belongs to this database. A graph that lacks changes is not checked yet.

        If the graph belongs to this database, it counts as complete from now on. If it does not, it is
        discarded.
        """
        extent = self._source.extent()
        if self._closing.is_set() or extent.sequence > self._sequence:
            return  # not up to date; check next time
        if extent.sequence == self._sequence and extent.count == len(self._graph):
            self._complete = True
            return
        log.warning(
            "the gallery's index is not of this database and is built anew",
            images=extent.count,
            indexed=len(self._graph),
            sequence=extent.sequence,
            indexed_sequence=self._sequence,
        )
        if self._folder is not None:
            saved.discard(self._folder)
        with self._lock:
            self._graph, self._sequence, self._complete = Graph(self._dimensions), 0, False
        self._saved = (0, time.monotonic())
        self.notify()

    def _rebuild_if_due(self) -> None:
        """Rebuild the graph if too many nodes are dead.

        Until the new graph is ready, searches use the old graph, which is kept up to date.
        """
        if len(self._graph.dead) < max(REBUILD_DEAD_NODES, REBUILD_DEAD_SHARE * self._graph.nodes):
            return
        graph, sequence = Graph(self._dimensions), 0
        while changes := self._source.changes_after(sequence, STREAM_ROWS):
            for start in range(0, len(changes), ADD_AT_ONCE):
                sequence = apply(graph, changes[start : start + ADD_AT_ONCE])
                if self._closing.is_set():
                    return
            self._add_changes()
        with self._lock:
            self._graph, self._sequence = graph, sequence
        self._saved = (0, self._saved[1])
        self.notify()

    def _save_if_due(self) -> None:
        sequence, when = self._saved
        if self._sequence - sequence >= SAVE_AFTER_CHANGES and time.monotonic() - when >= SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        if self._folder is None or self._sequence == self._saved[0]:
            return
        with self._lock:  # held only while writing to the page cache, not while syncing
            written, sequence = saved.write_temp(self._graph, self._folder), self._sequence
        saved.commit(written, model=self._model, sequence=sequence)
        self._saved = (sequence, time.monotonic())


def apply(graph: Graph, changes: Sequence[Change]) -> int:
    """Apply one or more changes to a graph, and return the sequence number of the last change."""
    latest = {change.key: change.vector for change in changes}
    added = {key: vector for key, vector in latest.items() if vector is not None}
    if added:
        graph.add(list(added), list(added.values()))
    for key in latest.keys() - added.keys():
        graph.remove(key)
    return changes[-1].sequence
