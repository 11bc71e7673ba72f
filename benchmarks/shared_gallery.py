"""How well and how fast a gallery in PostgreSQL is searched: `python -m benchmarks.shared_gallery`.

The vectors of benchmarks.retrieval, in the server that the tests use, searched by the service's own class,
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

from benchmarks.retrieval.vectors import DIMENSIONS, MODEL, K, Searched, searched
from service.gallery.database import GalleryDatabase
from service.gallery.postgres import EXACT_UP_TO, PostgresqlNearest, index_name
from service.gallery.records import Condition
from service.storage.database import open_database, prepare
from tests.helpers.postgres import PostgresServer, postgres_server

EMBEDDER = f"{MODEL}@000000000000"
QUERIES = 200
WORK_MEMORY = "1GB"
SHARES = (1, 10, 50)
"""Per cent of the images that a filter keeps."""


def fill(server: PostgresServer, engine: Engine, vectors: np.ndarray) -> None:
    """Put the vectors there under keys from 1, each with a number of 0 to 99 as metadata."""
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
    what: str, search: PostgresqlNearest, data: Searched, share: int = 100, queries: int = QUERIES
) -> None:
    """Measure and print one row: of the first `queries` queries, among `share` per cent of the images."""
    where: Sequence[Condition] = () if share == 100 else [Condition("hundredth", "lt", share)]
    kept = np.arange(1, len(data.gallery) + 1) % 100 < share
    some = Searched(data.gallery, data.queries[:queries])
    found, took = [], []
    for query in some.queries:
        begun = time.perf_counter()
        keys, _ = search.nearest(query, K, where)
        took.append((time.perf_counter() - begun) * 1000)
        found.append(keys - 1)
    recall = some.recall(found, kept)
    p50, p99 = np.percentile(took, (50, 99))
    print(f"| {what} | {recall.mean():.3f} | {recall.min():.1f} | {p50:.1f} | {p99:.1f} |", flush=True)


def main() -> None:
    """Fill a server, and measure without an index, with one, and with filters."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10_000, help="images in the gallery")
    count = arguments.parse_args().count
    data = searched(count)
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
        begun = time.perf_counter()
        search.notify()
        while search.status.mode != "hnsw":
            time.sleep(0.1)
        built = time.perf_counter() - begun
        report("HNSW", search, data)
        for share in SHARES:
            way = "exact" if count * share // 100 <= EXACT_UP_TO else "HNSW"
            report(f"where: {share} % ({way})", search, data, share)
        with engine.connect() as connection:
            size = connection.execute(text(f"SELECT pg_relation_size('{index_name(EMBEDDER)}')")).scalar_one()
        print(
            f"\nIndex: built in {built:.0f} s, {size / 1e6:.0f} MB, {size / count / 1000:.1f} KB per vector."
        )
        search.close()
        engine.dispose()


if __name__ == "__main__":
    main()
