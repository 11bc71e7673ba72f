"""Recall and latency of searching a gallery in PostgreSQL: `python -m benchmarks.shared_gallery`.

Uses the vectors of benchmarks.retrieval, the PostgreSQL server of the tests and the service's own class,
without HTTP. Prints the table of docs/postgresql.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pgvector.psycopg import register_vector
from sqlalchemy import Engine, text

from benchmarks.retrieval.vectors import DIMENSIONS, MODEL, K, Workload, workload
from service.gallery.database import GalleryDatabase
from service.gallery.postgres import EXACT_UP_TO, PostgresqlNearest, index_name
from service.gallery.records import Condition
from service.storage.database import open_database, prepare
from tests.helpers.postgres import PostgresServer, postgres_server

EMBEDDER = f"{MODEL}@000000000000"
QUERIES = 200
WORK_MEMORY = "1GB"
SHARES = (1, 10, 50)
"""Percentages of the images that filters match."""


def fill(server: PostgresServer, engine: Engine, vectors: np.ndarray) -> None:
    """Insert the vectors with keys from 1, each with a number from 0 to 99 as metadata."""
    prepare(engine)
    with server.connect() as connection:
        register_vector(connection)
        with connection.cursor().copy(
            "COPY gallery_embeddings (embedder, key, vector) FROM STDIN WITH (FORMAT BINARY)"
        ) as rows:
            rows.set_types(["varchar", "int8", "vector"])
            for key, vector in enumerate(vectors, 1):
                rows.write_row((EMBEDDER, key, vector))
        connection.execute(
            "INSERT INTO gallery_fields (key, name, kind, number)"
            " SELECT key, 'hundredth', 'n', key %% 100 FROM generate_series(1, %s) AS keys (key)",
            (len(vectors),),
        )
        connection.execute("UPDATE gallery_state SET images = %s, embedder = %s", (len(vectors), EMBEDDER))
        connection.execute("ANALYZE gallery_embeddings, gallery_fields")


def report(
    name: str, search: PostgresqlNearest, data: Workload, share: int = 100, queries: int = QUERIES
) -> None:
    """Measure and print one row: the first `queries` queries, with a filter for `share` percent of images."""
    where: Sequence[Condition] = () if share == 100 else [Condition("hundredth", "lt", share)]
    matching = np.arange(1, len(data.gallery) + 1) % 100 < share
    subset = Workload(data.gallery, data.queries[:queries])
    results, times_ms = [], []
    for query in subset.queries:
        started = time.perf_counter()
        keys, _ = search.nearest(query, K, where)
        times_ms.append((time.perf_counter() - started) * 1000)
        results.append(keys - 1)
    recall = subset.recall(results, matching)
    p50, p99 = np.percentile(times_ms, (50, 99))
    print(f"| {name} | {recall.mean():.3f} | {recall.min():.1f} | {p50:.1f} | {p99:.1f} |", flush=True)


def main() -> None:
    """Fill a server; measure without an index, with an index, and with filters."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10_000, help="images in the gallery")
    count = arguments.parse_args().count
    data = workload(count)
    with postgres_server() as server:
        with server.connect() as connection:
            connection.execute(f"ALTER DATABASE postgres SET maintenance_work_mem = '{WORK_MEMORY}'")
            [version] = connection.execute("SHOW server_version").fetchall()
            [extension] = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        print(f"PostgreSQL {version[0]}, pgvector {extension[0]}, {count} x {DIMENSIONS}, k = {K}\n")
        engine = open_database(server.url(), Path("unused"))
        fill(server, engine, data.gallery)
        print(
            "| search | recall@10 | of the worst query | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |"
        )
        exact = PostgresqlNearest(GalleryDatabase(engine), EMBEDDER, DIMENSIONS, exact_up_to=10**9)
        report("exact", exact, data, queries=50)
        exact.close()
        search = PostgresqlNearest(GalleryDatabase(engine), EMBEDDER, DIMENSIONS)
        started = time.perf_counter()
        search.notify()
        while search.status.mode != "hnsw":
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        report("HNSW", search, data)
        for share in SHARES:
            way = "exact" if count * share // 100 <= EXACT_UP_TO else "HNSW"
            report(f"where: {share} % ({way})", search, data, share)
        with engine.connect() as connection:
            size = connection.execute(text(f"SELECT pg_relation_size('{index_name(EMBEDDER)}')")).scalar_one()
        print(
            f"\nIndex: built in {seconds:.0f} s, {size / 1e6:.0f} MB, "
            f"{size / count / 1000:.1f} KB per vector."
        )
        search.close()
        engine.dispose()


if __name__ == "__main__":
    main()
