"""Similarity search in PostgreSQL. It is exact for few vectors, and otherwise uses pgvector's HNSW index."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import ColumnElement, Connection, Double, Select, bindparam, cast, func, literal, select, text

from service.errors import StorageUnavailable
from service.gallery.database import GalleryDatabase, read_state
from service.gallery.metadata import matching_keys
from service.gallery.records import Condition, SearchStatus, Vector
from service.gallery.tables import gallery_embeddings
from service.storage.errors import storage_errors

log = structlog.get_logger(__name__)

Keys = NDArray[np.int64]
Cosines = NDArray[np.float32]

EXACT_UP_TO = 2_000
"""Number of images up to which a search is exact. With 1280 dimensions, it then takes about 8 ms."""
CANDIDATES = 300
"""Minimum of pgvector's parameter `hnsw.ef_search`, which is the size of its list of candidates."""
RERANKED = 4
"""Number of candidates that the 16-bit index returns for each requested result.

They are re-ranked by their 32-bit vectors."""
MOST_DIMENSIONS = 4_000
"""Maximum number of dimensions of a vector in pgvector's 16-bit HNSW index.

With more dimensions, every search is exact."""
LOOK_EVERY_S = 1.0

_PREFIX = "gallery_hnsw_"
_BUILDING_LOCK = 0x7765_6969  # id of an advisory lock: a number that nothing else uses
_READY = text(
    "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE c.relname = :name AND pg_table_is_visible(c.oid)"
)
_OURS = text(
    "SELECT c.relname FROM pg_class c WHERE c.relkind = 'i' AND starts_with(c.relname, :prefix)"
    " AND pg_table_is_visible(c.oid)"
)


class PostgresqlNearest:
    """Finds the nearest images by the embeddings of one network. Thread-safe.

    All replicas search the same rows, so commits of other replicas are visible at once. One replica builds
    the HNSW index in the background once there are enough images; until then every search is exact. `close`
    ends the background thread.
    """

    def __init__(
        self,
        database: GalleryDatabase,
        embedder: str,
        dimensions: int,
        *,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        """Starts the background thread, but does not connect to the database."""
        self._database = database
        self._embedder = embedder
        self._dimensions = dimensions
        self._exact_up_to = exact_up_to
        self._index = index_name(embedder)
        self._indexed = False
        self._seen = 0
        self._look = threading.Event()
        self._closing = False
        self._maintainer = threading.Thread(target=self._maintain, name="weighin-hnsw", daemon=True)
        self._maintainer.start()

    def nearest(self, query: Vector, k: int, where: Sequence[Condition] = ()) -> tuple[Keys, Cosines]:
        """Return keys, int64 (K,), and cosines, float32 (K,), of the `k` nearest images that match `where`.

        The nearest image comes first. If fewer than `k` images match, all of these are returned. `query`:
        float32 (D,) of length 1. Raises StorageUnavailable.
        """
        with self._database.reading() as connection:
            if connection is None:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            images = self._seen = read_state(connection).images
            if images > self._exact_up_to and not self._indexed:
                self._look.set()
            rows = None
            matching = self._count_matching(connection, where, images)
            if self._indexed and matching > self._exact_up_to:
                rows = self._by_index(connection, query, k, where)
                if len(rows) < min(k, self._exact_up_to):  # too few candidates passed the filter
                    rows = None
            if rows is None:
                rows = connection.execute(self._exactly(query, k, where)).all()
        keys = np.array([key for key, _ in rows], np.int64)
        return keys, np.array([cosine for _, cosine in rows], np.float32)

    def notify(self) -> None:
        """Announce that a change was committed, so that the index is built if it is needed."""
        if not self._indexed:
            self._look.set()

    @property
    def status(self) -> SearchStatus:
        """Current status of the search. Searches are exact while there is no index."""
        return SearchStatus("hnsw", self._seen) if self._indexed else SearchStatus("exact", 0)

    def close(self) -> None:
        """End the background thread. If it is building an index, wait until the index is built."""
        self._closing = True
        self._look.set()
        self._maintainer.join()

    def _count_matching(self, connection: Connection, where: Sequence[Condition], images: int) -> int:
        """Return how many images match all conditions, but stop counting above the limit of exact search.

        If more images match than this limit, which is `exact_up_to`, the result is the limit plus 1. If there
        are no conditions, the result is `images`, the number of all images.
        """
        if not where:
            return images
        matching = matching_keys(where).limit(self._exact_up_to + 1).subquery()
        return connection.execute(select(func.count()).select_from(matching)).scalar_one()

    def _exactly(self, query: Vector, k: int, where: Sequence[Condition]) -> Select[Any]:
        # Ordered by the 32-bit cosine, for which the index cannot be used.
        cosine = _cosine(gallery_embeddings.c.vector, query)
        return (
            self._rows(where, gallery_embeddings.c.key, cosine)
            .order_by(cosine.desc(), gallery_embeddings.c.key)
            .limit(k)
        )

    def _by_index(
        self, connection: Connection, query: Vector, k: int, where: Sequence[Condition]
    ) -> Sequence[Any]:
        candidates = max(k * RERANKED, 40)
        connection.execute(
            select(
                func.set_config("hnsw.ef_search", str(min(max(CANDIDATES, candidates), 1000)), True),
                func.set_config("hnsw.iterative_scan", "strict_order", True),
                func.set_config("hnsw.max_scan_tuples", "100000", True),
                # The planner underestimates a full scan's cost, as vectors are stored out of line (TOAST).
                func.set_config("enable_sort", "on" if where else "off", True),
            )
        )
        half = HALFVEC(self._dimensions)
        distance = cast(gallery_embeddings.c.vector, half).op("<#>", return_type=Double)(
            cast(bindparam("rough", query, VECTOR()), half)
        )
        near = (
            self._rows(where, gallery_embeddings.c.key, gallery_embeddings.c.vector)
            .order_by(distance)
            .limit(candidates)
            .cte("near")
            .prefix_with("MATERIALIZED")
        )
        cosine = _cosine(near.c.vector, query)
        return connection.execute(
            select(near.c.key, cosine).order_by(cosine.desc(), near.c.key).limit(k)
        ).all()

    def _rows(self, where: Sequence[Condition], *columns: ColumnElement[Any]) -> Select[Any]:
        # The embedder is a literal: with a parameter, the planner could not use its partial index.
        embedder = literal(self._embedder, literal_execute=True)
        rows = select(*columns).where(gallery_embeddings.c.embedder == embedder)
        return rows.where(gallery_embeddings.c.key.in_(matching_keys(where))) if where else rows

    def _maintain(self) -> None:
        waiting = False  # whether an index is needed but not ready
        problem = None
        while True:
            self._look.wait(LOOK_EVERY_S if waiting else None)
            if self._closing:
                return
            self._look.clear()
            try:
                with storage_errors():
                    waiting = self._ensure_index()
                problem = None
            except StorageUnavailable as error:
                if problem != error.detail:
                    log.warning("gallery index: cannot be checked or built", reason=error.detail)
                waiting, problem = True, error.detail

    def _ensure_index(self) -> bool:
        """Build the index if it is needed and no replica has built it.

        Return True if it is needed but not ready yet, because another replica is building it.
        """
        state = self._database.state()
        self._seen = state.images
        if state.images <= self._exact_up_to or self._dimensions > MOST_DIMENSIONS:
            return False
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            ready = self._ready(connection)
            if not ready and _try_lock(connection):
                try:
                    ready = self._ready(connection)  # another replica may have built it meanwhile
                    if not ready:
                        self._build(connection, keep={index_name(embedder) for embedder in state.embedders})
                        ready = True
                finally:
                    connection.execute(select(func.pg_advisory_unlock(_BUILDING_LOCK)))
        self._indexed = bool(ready)
        return not self._indexed

    def _ready(self, connection: Connection) -> bool | None:
        """Return whether the index is valid, or None if there is no index.

        If building an index fails, an index that is not valid remains.
        """
        return connection.execute(_READY, {"name": self._index}).scalar()

    def _build(self, connection: Connection, keep: set[str]) -> None:
        for name in connection.execute(_OURS, {"prefix": _PREFIX}).scalars().all():
            if name == self._index or name not in keep:
                connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        log.info("gallery index: building", embedder=self._embedder)
        quoted = self._embedder.replace("'", "''").replace("%", "%%")
        connection.exec_driver_sql(
            f"CREATE INDEX CONCURRENTLY {self._index} ON {gallery_embeddings.name} USING hnsw"
            f" ((CAST(vector AS halfvec({self._dimensions}))) halfvec_ip_ops) WHERE embedder = '{quoted}'"
        )
        log.info("gallery index: ready", embedder=self._embedder)


def index_name(embedder: str) -> str:
    """Return the name of the HNSW index over the embeddings of an embedder."""
    return _PREFIX + hashlib.sha256(embedder.encode()).hexdigest()[:16]


def _cosine(vector: ColumnElement[Any], query: Vector) -> ColumnElement[float]:
    # pgvector's <#> is the negative inner product, which for vectors of length 1 is the negative cosine.
    return -vector.op("<#>", return_type=Double)(cast(bindparam("query", query, VECTOR()), VECTOR()))


def _try_lock(connection: Connection) -> bool:
    return bool(connection.execute(select(func.pg_try_advisory_lock(_BUILDING_LOCK))).scalar())
