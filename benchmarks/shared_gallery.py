"""Recall and latency of searches in a PostgreSQL gallery, and size and build time of its index.

    python -m benchmarks.shared_gallery [--count 10000] [--build-only] [--work-memory 1GB]

Uses the vectors of benchmarks.retrieval, the PostgreSQL server of the tests and the service's own class,
without HTTP. Prints the tables of docs/postgresql.md and docs/scaling.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pgvector.psycopg import register_vector
from sqlalchemy import Engine, text

from benchmarks.report import machine
from benchmarks.retrieval.vectors import DIMENSIONS, MODEL, K, Workload, workload
from service.gallery.database import GalleryDatabase
from service.gallery.postgres import EXACT_UP_TO, PostgresqlNearest, index_name
from service.gallery.records import Condition
from service.storage.database import open_database, prepare
from tests.helpers.postgres import PostgresServer, postgres_server

EMBEDDER = f"{MODEL}@000000000000"
QUERIES = 200
EXACT_QUERIES = 20
ROUNDS = 3
SHARES = (1, 10, 50)
"""Percentages of the images that match the filters."""


def fill(server: PostgresServer, engine: Engine, vectors: np.ndarray) -> None:
    """Insert the vectors with keys from 1 on. Each gets a number from 0 to 99 as metadata."""
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
    """Measure and print one row of the table.

    Runs the first `queries` queries, with a filter that matches `share` percent of the images. Times are the
    median of ROUNDS rounds, with the lowest and the highest value.
    """
    where: Sequence[Condition] = () if share == 100 else [Condition("hundredth", "lt", share)]
    matching = np.arange(1, len(data.gallery) + 1) % 100 < share
    subset = Workload(data.gallery, data.queries[:queries])
    percentiles = []
    for _ in range(ROUNDS):
        results, times_ms = [], []
        for query in subset.queries:
            started = time.perf_counter()
            keys, _ = search.nearest(query, K, where)
            times_ms.append((time.perf_counter() - started) * 1000)
            results.append(keys - 1)
        percentiles.append(np.percentile(times_ms, (50, 95)))
    recall = subset.recall(results, matching)
    times = " | ".join(
        f"{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        for values in zip(*percentiles, strict=True)
    )
    print(f"| {name} | {recall.mean():.3f} | {recall.min():.1f} | {times} |", flush=True)


def build(search: PostgresqlNearest) -> float:
    """Let the service build its index; return the time in seconds."""
    started = time.perf_counter()
    search.notify()
    while search.status.mode != "hnsw":
        time.sleep(0.02)
    return time.perf_counter() - started


def sizes(engine: Engine, count: int) -> str:
    """Return the sizes of the table of vectors and of its index as a sentence."""
    with engine.connect() as connection:
        index = connection.execute(text(f"SELECT pg_relation_size('{index_name(EMBEDDER)}')")).scalar_one()
        table = connection.execute(text("SELECT pg_table_size('gallery_embeddings')")).scalar_one()
    return (
        f"Index: {index / 1e6:.0f} MB, {index / count:.0f} bytes per vector. "
        f"Table with TOAST: {table / 1e6:.0f} MB, {table / count:.0f} bytes per vector."
    )


def main() -> None:
    """Fill a PostgreSQL server; measure without an index, with an index, and with filters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="images in the gallery")
    parser.add_argument("--build-only", action="store_true", help="build the index, without searches")
    parser.add_argument("--work-memory", default="1GB", help="maintenance_work_mem (default: %(default)s)")
    arguments = parser.parse_args()
    count, memory = arguments.count, arguments.work_memory
    data = workload(count)
    with postgres_server() as server:
        with server.connect() as connection:
            connection.execute(f"ALTER DATABASE postgres SET maintenance_work_mem = '{memory}'")
            [version] = connection.execute("SHOW server_version").fetchall()
            [extension] = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            [workers] = connection.execute("SHOW max_parallel_maintenance_workers").fetchall()
        print(f"PostgreSQL {version[0]}, pgvector {extension[0]}, {count} x {DIMENSIONS}, k = {K}\n")
        engine = open_database(server.url(), Path("unused"))
        fill(server, engine, data.gallery)
        if not arguments.build_only:
            print("| search | recall@10 | recall@10 of the worst query | p50 ms | p95 ms |")
            print("| --- | --- | --- | --- | --- |")
            exact = PostgresqlNearest(GalleryDatabase(engine), EMBEDDER, DIMENSIONS, exact_up_to=10**9)
            report("exact", exact, data, queries=EXACT_QUERIES)
            exact.close()
        search = PostgresqlNearest(GalleryDatabase(engine), EMBEDDER, DIMENSIONS)
        seconds = build(search)
        if not arguments.build_only:
            report("HNSW", search, data)
            for share in SHARES:
                way = "exact" if count * share // 100 <= EXACT_UP_TO else "HNSW"
                report(f"`where` keeps {share} % ({way})", search, data, share)
        print(f"\n{sizes(engine, count)}")
        print(
            f"Build: {seconds:.1f} s, {count / seconds:.0f} vectors/s, with maintenance_work_mem "
            f"{memory} and up to {workers[0]} parallel workers."
        )
        search.close()
        engine.dispose()
    for name, value in machine().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
