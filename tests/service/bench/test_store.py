"""Benchmarks in real databases: states, bundles, lost processes, unusable databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import Engine, inspect, update

import service.state  # noqa: F401  defines the tables of all features
from service.bench.archive import BenchmarkArchive
from service.bench.fingerprint import Host, this_host
from service.bench.jobs import Benchmark
from service.bench.measure.progress import Progress
from service.bench.store import BenchmarkStore, benchmarks
from service.errors import Busy, StorageUnavailable
from service.storage.database import FILE_NAME, SCHEMA, open_database, prepare
from tests.service.bench import bundles

pytestmark = pytest.mark.databases("sqlite", "postgresql")

PROGRESS = Progress(
    "measuring", launch=1, launches=3, round=2, rounds=6, done=0.25, elapsed_s=1.5, left_s=4.5
)
SAMPLES = {"good": [[[5, 6, 7]]]}
HERE = Host(cpu="Test CPU", cores=2, host="here", id="a" * 16)
THERE = HERE.model_copy(update={"host": "there", "id": "b" * 16})


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


def be_silent(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all processes have been silent for ten seconds, which is too long."""
    monkeypatch.setattr("service.bench.store.SILENT_AFTER_S", 0.05)  # the server has run for longer
    with engine.begin() as connection:
        connection.execute(update(benchmarks).values(alive_ms=benchmarks.c.alive_ms - 10_000))


def test_interrupted_benchmark(
    store: BenchmarkStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin("lost", "{}", 1)
    store.heard("lost", 2, '{"done": 0.5}')
    store.begin("over", "{}", 2)
    store.finish("over", "failed", 3, detail="it broke")
    if store.shared:
        store.interrupt_lost(40)
        row = store.row("lost")
        assert row is not None
        assert (row.state, row.lost) == ("running", False), "its process was heard a moment ago"
        be_silent(engine, monkeypatch)
        row = store.row("lost")
        assert row is not None
        assert row.lost
    store.interrupt_lost(50)
    lost, over = store.row("lost"), store.row("over")
    assert lost is not None
    assert over is not None
    assert (lost.state, lost.detail) == ("interrupted", "the service ended while it ran")
    assert (lost.finished_at, lost.progress, lost.lost) == (50, None, False)
    assert (over.state, over.detail) == ("failed", "it broke")
    assert not store.request_cancel("lost", 60)
    store.finish("lost", "done", 70, bundle=b"{}")  # its process was only cut off
    back = store.row("lost")
    assert back is not None
    assert (back.state, back.measured) == ("done", True)


@pytest.mark.databases("postgresql")
def test_process_that_was_cut_off(
    store: BenchmarkStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin("first", "{}", 1, HERE)
    be_silent(engine, monkeypatch)
    store.interrupt_lost(50)
    monkeypatch.undo()
    assert not store.heard("first", 60, '{"done": 0.5}')
    row = store.row("first")
    assert row is not None
    assert (row.state, row.finished_at, row.detail, row.progress) == ("running", None, None, '{"done": 0.5}')
    with pytest.raises(Busy, match="'first' is running on this machine"):
        store.begin("second", "{}", 70, HERE)
    be_silent(engine, monkeypatch)
    store.begin("second", "{}", 80, HERE)
    for _ in range(2):
        with pytest.raises(
            Busy, match=r"'first': it could not reach the database, and another benchmark was"
        ):
            store.heard("first", 90, '{"done": 0.6}')
    assert {row.id: row.state for row in store.rows(9)} == {"first": "interrupted", "second": "running"}
    store.finish("first", "cancelled", 95, detail="it could not reach the database")
    assert not store.heard("first", 96), "only benchmarks whose process was lost run again"
    assert {row.id: row.state for row in store.rows(9)} == {"first": "cancelled", "second": "running"}


def test_row_of_a_newer_version(store: BenchmarkStore, engine: Engine) -> None:
    store.begin("a", "{}", 1, HERE)
    store.heard("a", 2, json.dumps(asdict(PROGRESS) | {"of_a_newer_version": 1}))
    with engine.begin() as connection:
        machine = json.dumps(HERE.model_dump() | {"of_a_newer_version": 1})
        connection.execute(update(benchmarks).values(machine=machine))
    row = store.row("a")
    assert row is not None
    shown = Benchmark.stored(row)
    assert (shown.row.machine, shown.progress) == (HERE, PROGRESS)


def test_progress_and_cancellation_by_another_process(store: BenchmarkStore) -> None:
    store.begin("a", "{}", 1, HERE)
    assert not store.heard("a", 2, '{"done": 0.25}')
    row = store.row("a")
    assert row is not None
    assert (row.progress, row.machine, row.cancelling) == ('{"done": 0.25}', HERE, False)
    assert store.request_cancel("a", 3)
    assert store.request_cancel("a", 4), "idempotent"
    row = store.row("a")
    assert row is not None
    assert (row.state, row.cancelling) == ("running", True)
    assert store.heard("a", 5, '{"done": 0.5}')
    store.finish("a", "cancelled", 6, detail="it was cancelled", bundle=b"{}")
    [row] = store.rows(9)
    assert (row.state, row.cancelling, row.progress, row.machine) == ("cancelled", False, None, HERE)
    assert not store.request_cancel("a", 7)
    assert not store.request_cancel("none", 7)
    assert not store.heard("a", 8)


@pytest.mark.slow
def test_cancellation_that_another_process_sees(store: BenchmarkStore) -> None:
    store.begin("a", "{}", 1)
    assert store.heard("a", 2, cancelling=True)
    row = store.row("a")
    assert row is not None
    assert row.cancelling


@pytest.mark.parametrize(
    ("state", "bundle", "detail"),
    [
        ("done", b"{}", "it was cancelled"),
        ("failed", None, "it was cancelled, before the first results"),
    ],
)
def test_acknowledged_cancellation_at_the_last_moment(
    store: BenchmarkStore, state: Literal["done", "failed"], bundle: bytes | None, detail: str
) -> None:
    store.begin("a", "{}", 1)
    assert store.request_cancel("a", 2)
    store.finish("a", state, 3, detail="it broke", bundle=bundle)
    row = store.row("a")
    assert row is not None
    assert (row.state, row.detail, row.measured) == ("cancelled", detail, bundle is not None)


@pytest.mark.slow
def test_one_benchmark_per_machine(
    store: BenchmarkStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin("first", "{}", 1, HERE)
    store.begin("elsewhere", "{}", 2, THERE)
    if store.shared:
        with pytest.raises(Busy, match=r"'first' is running on this machine.*limit: 1 per machine"):
            store.begin("second", "{}", 3, HERE)
        assert store.row("second") is None
        be_silent(engine, monkeypatch)
    # With SQLite, the process that begins one is the only one, so any other on this machine is lost.
    store.begin("second", "{}", 4, HERE)
    assert {row.id: row.state for row in store.rows(9)} == {
        "first": "interrupted",
        "elsewhere": "running",
        "second": "running",
    }
    store.finish("second", "done", 5)
    store.begin("third", "{}", 6, HERE)


@pytest.mark.slow
@pytest.mark.databases("postgresql")
def test_simultaneous_starts_on_a_machine(store: BenchmarkStore) -> None:

    def start(number: int) -> bool:
        try:
            store.begin(f"b{number}", "{}", 1, HERE)
        except Busy:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(start, range(8))) == 1
    assert len(store.rows(9)) == 1


def test_reads_before_the_migration(
    store: BenchmarkStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("service.storage.database.SCHEMA", "0007")
        prepare(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO benchmarks (id, state, created_ms, alive_ms, request) "
            "VALUES ('old', 'done', 1, 1, '{}')"
        )
    [row] = store.rows(9)
    assert (row.id, row.machine, row.progress, row.cancelling) == ("old", None, None, False)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0007"


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
    assert row.machine == this_host().model_copy(update={"cpu": "Test CPU", "cores": 2})
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


@pytest.mark.slow
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
