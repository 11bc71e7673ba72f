"""Turn approximate neighbours into the result of a search.

They are filtered and re-ranked in float32, and recent changes are merged into them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.gallery.index.changes import Keep, Keys, Scores, VectorSource
from service.gallery.index.graph import ROUNDING, cosines
from service.gallery.records import Change, Vector

CANDIDATES = 64
"""Minimum number of candidates in the first request to the graph.

It is four times the number of requested results if that is more."""
WIDER = (1, 8, 32, 256)
"""Numbers of candidates in successive requests, as multiples of the first.

The requests go on until enough candidates pass the filter. The last request is for all nodes."""
FEWEST_SPARE = 8
"""Minimum number of extra vectors that are read for re-ranking, because float16 misplaces a few neighbours.

It is a quarter of the number of requested results if that is more."""
MOST_RERANKED = 32
"""Maximum number of vectors that are read, as a multiple of the number of candidates in the first request.

It ends the reading if very many candidates are equal within rounding."""
SPARE = 64
"""Number of results that are kept beyond the requested number while changes are merged.

Some results may turn out to be deleted."""
STREAM_ROWS = 512
"""Number of changes that are in memory at a time while they are read from the store.

They take 2.6 MB at 1 280 dimensions."""


@dataclass(frozen=True)
class Candidates:
    """The nearest nodes of a graph that has the changes up to `sequence`.

    `keys`: the nodes' keys, nearest first. `rough`: their cosines in float16. `exact`: whether the query was
    compared with all nodes. `all`: whether these are all nodes.
    """

    keys: Keys
    rough: Scores
    exact: bool
    all: bool
    sequence: int


Look = Callable[[int | None, bool], Candidates]
"""Function that returns the given number of nearest nodes of a graph, or all nodes if the number is None.

Its second argument says whether to compare the query with every node."""


def nearest(
    look: Look, source: VectorSource, query: Vector, k: int, keep: Keep | None
) -> tuple[Keys, Scores, int]:
    """Return the nearest images that pass `keep`, nearest first, and the graph's sequence number.

    Up to SPARE images more than `k` are returned, or fewer than `k` if fewer pass `keep`. More and more
    candidates are requested from the graph, in the steps of WIDER and then all nodes, until enough of them
    pass `keep`. Three kinds of request compare the query with every node: the request in the last step of
    WIDER, the request for all nodes, and every request to a small graph. After such a request, the first `k`
    images are exactly the nearest ones: vectors are read in float32 until no unread vector can be nearer than
    these. The result may be inexact only if MOST_RERANKED ends the reading earlier.
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
    """Bring the result `found` of a search up to date, and return its `count` nearest images.

    `found` has the keys and the cosines of images as of the change `sequence`. Of the images that were added
    after this change, those that pass `keep` are included. The images that were deleted after it are removed.
    """
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
    """Return the `keys` that the store still has, in any order, and their cosines with `query` in float32."""
    if len(keys) == 0:
        return keys, np.empty(0, np.float32)
    there, vectors = source.vectors(keys)
    return there, cosines(query, vectors) if len(there) else np.empty(0, np.float32)


def best(keys: Keys, scores: Scores, count: int) -> tuple[Keys, Scores]:
    """Return the `count` keys with the highest scores, and these scores, highest first.

    Keys with equal scores are ordered by key.
    """
    order = np.lexsort((keys, -scores))[:count]
    return keys[order], scores[order]


def _scored(query: Vector, changes: Sequence[Change], keep: Keep | None) -> tuple[Keys, Scores]:
    vectors = {change.key: change.vector for change in changes}  # the latest change of each key
    there = {key: vector for key, vector in vectors.items() if vector is not None}
    keys = np.fromiter(there, np.int64, len(there))
    if len(keys) and keep is not None:
        keys = keys[keep(keys)]
    if len(keys) == 0:
        return keys, np.empty(0, np.float32)
    return keys, cosines(query, np.stack([there[int(key)] for key in keys]))
