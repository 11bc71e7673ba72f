"""Benchmarks in real databases: states, bundles, lost processes, unusable databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect

import service.state  # noqa: F401  defines the tables of all features
from service.bench.archive import BenchmarkArchive
from service.bench.store import BenchmarkStore, benchmarks
from service.errors import StorageUnavailable
from service.storage.database import FILE_NAME, SCHEMA, open_database, prepare
from tests.service.bench import bundles

pytestmark = pytest.mark.databases("sqlite", "postgresql")

SAMPLES = {"good": [[[5, 6, 7]]]}


@pytest.fixture
def engine(tmp_path: Path, database_url: str | None) -> Iterator[Engine]:
    engine = open_database(database_url, tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> BenchmarkStore:
    return BenchmarkStore(engine)


def test_benchmark_from_start_to_bundle(store: BenchmarkStore) -> None:
    store.begin("a", '{"profile": "quick"}', 100.25)
    [row] = store.rows(10)
    assert (row.id, row.state, row.created_at, row.finished_at, row.measured) == (
        "a",
        "running",
        100.25,
        None,
        False,
    )
    assert store.bundle("a") is None
    store.finish("a", "done", 160.5, bundle=b'{"some": "json"}')
    row = store.row("a")
    assert row is not None
    assert (row.state, row.finished_at, row.request, row.measured) == (
        "done",
        160.5,
        '{"profile": "quick"}',
        True,
    )
    assert store.bundle("a") == b'{"some": "json"}'


def test_order_of_benchmarks(store: BenchmarkStore) -> None:
    for number in range(3):
        store.begin(f"b{number}", "{}", number)
    store.finish("b1", "done", 9, bundle=b"{}")
    assert [row.id for row in store.rows(2)] == ["b2", "b1"]
    assert [row.id for row in store.rows(9, measured=True)] == ["b1"]
    assert store.row("none") is None
    assert store.bundle("none") is None


def test_interrupted_benchmark(store: BenchmarkStore) -> None:
    store.begin("lost", "{}", 1)
    store.begin("over", "{}", 2)
    store.finish("over", "failed", 3, detail="it broke")
    store.interrupt_lost(50, detail="the service ended")
    lost, over = store.row("lost"), store.row("over")
    assert lost is not None
    assert over is not None
    assert (lost.state, lost.detail, lost.finished_at) == ("interrupted", "the service ended", 50)
    assert (over.state, over.detail) == ("failed", "it broke")


def test_a_bundle_is_kept_and_read_once(store: BenchmarkStore, engine: Engine) -> None:
    archive = BenchmarkArchive(store)
    made = bundles.bundle(SAMPLES)
    identifier = archive.save(made)
    kept, problems = archive.newest_bundles()
    assert problems == {}
    assert [(each.id, each.bundle) for each in kept] == [(identifier, made)]
    row = store.row(identifier)
    assert row is not None
    assert '"models": ["good"]' in row.request
    with engine.begin() as connection:
        connection.execute(benchmarks.update().values(bundle=b"\0"))
    assert archive.newest_bundles()[0][0] is kept[0]
    with pytest.raises(StorageUnavailable, match="damaged"):
        BenchmarkArchive(store).newest_bundles()


def test_unreadable_bundle_among_others(store: BenchmarkStore) -> None:
    archive = BenchmarkArchive(store)
    good = archive.save(bundles.bundle(SAMPLES))
    store.add("newer", "{}", 1, 2, b'{"schema_version": 99}')
    kept, problems = archive.newest_bundles()
    assert [each.id for each in kept] == [good]
    assert "schema version 99" in problems["newer"]


def test_migration_keeps_rows(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    import service.storage.migrations as migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO latency_progress VALUES ('minutes_from', 7200)")
        assert not inspect(connection).has_table("benchmarks")
    prepare(engine)
    BenchmarkStore(engine).begin("a", "{}", 1)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() == [(SCHEMA,)]
        assert connection.exec_driver_sql("SELECT until FROM latency_progress").all() == [(7200,)]
        assert connection.exec_driver_sql("SELECT id FROM benchmarks").all() == [("a",)]


def test_migrated_table(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from service.storage.database import metadata

    prepare(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_obstacle_and_missing_folder(tmp_path: Path, engine: Engine) -> None:
    barred = BenchmarkStore(engine, lambda: "someone else has it")
    with pytest.raises(StorageUnavailable, match="someone else has it"):
        barred.begin("a", "{}", 1)
    assert not (tmp_path / FILE_NAME).exists()
    nowhere = BenchmarkStore(open_database(None, tmp_path / "missing"))
    with pytest.raises(StorageUnavailable, match="missing or cannot be written"):
        nowhere.begin("a", "{}", 1)


def test_reads_without_a_database(tmp_path: Path, store: BenchmarkStore) -> None:
    assert store.rows(10) == []
    assert store.row("a") is None
    assert store.bundle("a") is None
    assert not (tmp_path / FILE_NAME).exists(), "reading made a database"
