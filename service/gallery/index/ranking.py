"""From rough neighbours to the answer: filtered, re-ranked in float32, and what came since put among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.gallery.index.changes import Keep, Keys, Scores, VectorSource
from service.gallery.index.graph import ROUNDING, cosines
from service.gallery.records import Change, Vector

CANDIDATES = 64
"""Neighbours that are looked at first; at least four for each that is wanted."""
WIDER = (1, 8, 32, 256)
"""How many times as many are looked at by turns, while too few of them may be found; at last all are."""
FEWEST_SPARE = 8
"""Neighbours whose vectors are read first, besides the wanted ones; at least a quarter of those. Float16
misplaces a few by a place or two."""
MOST_RERANKED = 32
"""How many times CANDIDATES are read from the store at most, even if more are equal but for rounding."""
SPARE = 64
"""Places kept behind the wanted ones while changes stream by: rows that go meanwhile leave theirs."""
STREAM_ROWS = 512
"""Changes that are in memory at once while they stream: 2.6 MB of 1 280 dimensions."""


@dataclass(frozen=True)
class Candidates:
    """The nearest nodes of a graph: keys, best first, with float16 cosines.

    `exact`: all nodes were compared; `all`: these are all there are. The graph holds the changes up to
    `sequence`.
    """

    keys: Keys
    rough: Scores
    exact: bool
    all: bool
    sequence: int


Look = Callable[[int | None, bool], Candidates]
"""How to look at so many nodes (None: all), and whether by comparing every one."""


def nearest(
    look: Look, source: VectorSource, query: Vector, k: int, keep: Keep | None
) -> tuple[Keys, Scores, int]:
    """The `k` nearest that may be found, or more, best first, and the sequence up to which that holds.

    The graph is asked for more and more neighbours until enough of them pass `keep`, then all its nodes are
    compared. Where they are, the answer is exact: what was not read in float32 is so much farther off that
    rounding cannot have hidden it (unless MOST_RERANKED are that close).
    """
    first = max(CANDIDATES, 4 * k)
    most = first * MOST_RERANKED
    wanted = k if keep is None else 2 * k
    for step in (*WIDER, None):
        wide = step in (WIDER[-1], None)
        looked = look(None if step is None else first * step, wide)
        passing = np.ones(len(looked.keys), np.bool_) if keep is None else keep(looked.keys)
        keys, rough = looked.keys[passing], looked.rough[passing]
        if len(keys) < wanted and not looked.all:
            continue
        for read in (k + max(FEWEST_SPARE, k // 4), min(len(keys), most)):
            there, scores = best(*reranked(source, query, keys[:read]), k + SPARE)
            unread = rough[read] if len(keys) > read else None if looked.all else looked.rough[-1]
            certain = unread is None or (len(scores) >= k and scores[k - 1] >= unread + ROUNDING)
            if certain or read >= most or (not looked.exact and len(scores) >= min(k, len(keys))):
                return there, scores, looked.sequence
    return there, scores, looked.sequence


def with_tail(
    source: VectorSource,
    query: Vector,
    keep: Keep | None,
    sequence: int,
    found: tuple[Keys, Scores],
    count: int,
) -> tuple[Keys, Scores]:
    """The best `count` of `found` and of all changes after `sequence`, which are read once and not kept."""
    keys, scores = found
    while changes := source.changes_after(sequence, STREAM_ROWS):
        sequence = changes[-1].sequence
        old = ~np.isin(keys, np.array([change.key for change in changes], np.int64))
        new_keys, new_scores = _scored(query, changes, keep)
        keys, scores = best(
            np.concatenate([keys[old], new_keys]), np.concatenate([scores[old], new_scores]), count
        )
    return keys, scores


def reranked(source: VectorSource, query: Vector, keys: Keys) -> tuple[Keys, Scores]:
    """Those of `keys` that are still there, in any order, with the cosines of what the store keeps."""
    if len(keys) == 0:
        return keys, np.empty(0, np.float32)
    there, vectors = source.vectors(keys)
    return there, cosines(query, vectors) if len(there) else np.empty(0, np.float32)


def best(keys: Keys, scores: Scores, count: int) -> tuple[Keys, Scores]:
    """The `count` with the highest scores, best first, equal ones by key."""
    order = np.lexsort((keys, -scores))[:count]
    return keys[order], scores[order]


def _scored(query: Vector, changes: Sequence[Change], keep: Keep | None) -> tuple[Keys, Scores]:
    vectors = {change.key: change.vector for change in changes}  # the latest of a key that changed twice
    there = {key: vector for key, vector in vectors.items() if vector is not None}
    keys = np.fromiter(there, np.int64, len(there))
    if len(keys) and keep is not None:
        keys = keys[keep(keys)]
    if len(keys) == 0:
        return keys, np.empty(0, np.float32)
    return keys, cosines(query, np.stack([there[int(key)] for key in keys]))
