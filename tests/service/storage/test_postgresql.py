"""What is particular to a database on a server: its migrations, its errors, and several who share it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, select, text

import service.state  # noqa: F401  defines the tables of all features
from service.bench.store import BenchmarkStore, benchmarks
from service.errors import DatabaseUnreachable, StorageUnavailable
from service.gallery.database import GalleryDatabase
from service.gallery.records import Quota
from service.gallery.store import GalleryStore
from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S
from service.latency.store import LatencyStore
from service.state import open_state
from service.storage.database import READING, SCHEMA, metadata, open_database, prepare
from service.storage.errors import storage_errors
from tests.helpers.postgres import PostgresServer
from tests.service.latency.test_store import DAY, TOTAL, at_every_resolution, counts, recorded, stored_parts
from tests.service.storage.test_database import exit_codes_of_three

pytestmark = pytest.mark.databases("postgresql")


@pytest.fixture
def engine(tmp_path: Path, database_url: str | None) -> Iterator[Engine]:
    engine = open_database(database_url, tmp_path)
    yield engine
    engine.dispose()


def prepare_at(url: str) -> None:
    prepare(open_database(url, Path("unused")))


def test_migrations_create_the_tables_of_the_code(engine: Engine) -> None:
    prepare(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.slow
def test_concurrent_processes_migrate_once(database_url: str) -> None:
    assert exit_codes_of_three(prepare_at, database_url) == [0, 0, 0]


def test_newer_schema_is_refused_and_unchanged(engine: Engine, database_url: str, tmp_path: Path) -> None:
    prepare(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    later = open_database(database_url, tmp_path)
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=rf"schema 9999 .*up to {SCHEMA}; .* another database"):
            prepare(later)
    later.dispose()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_running_processes_go_on_after_a_newer_migration(engine: Engine) -> None:
    running = BenchmarkStore(engine)
    running.begin("a", "{}", 1)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE benchmarks ADD COLUMN of_a_newer_version TEXT"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not running.heard("a", 2, '{"done": 0.5}')
    running.finish("a", "done", 3, bundle=b"{}")
    [row] = running.rows(9)
    assert (row.state, row.measured) == ("done", True)
    gallery = GalleryStore(GalleryDatabase(engine), Quota(images=1, bytes=1))
    assert gallery.get("a") is None
    assert not gallery.delete("a")
    assert LatencyStore(engine).ensure_open()


@pytest.mark.slow
def test_new_empty_database(postgres: PostgresServer, tmp_path: Path) -> None:
    engine = open_database(postgres.new_database(), tmp_path)
    prepare(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    with engine.begin() as connection:
        connection.execute(
            benchmarks.insert().values(id="a", state="ä", created_ms=1, alive_ms=1, request="→")
        )
        assert connection.execute(select(benchmarks.c.state, benchmarks.c.request)).one() == ("ä", "→")
    engine.dispose()


def test_the_driver_need_not_be_named(postgres: PostgresServer, tmp_path: Path) -> None:
    engine = open_database(postgres.url().replace("+psycopg", ""), tmp_path)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_state_on_a_server_makes_no_data_directory(tmp_path: Path, database_url: str) -> None:
    with (
        open_state(tmp_path / "data", database_url) as one,
        open_state(tmp_path / "data", database_url) as two,
    ):
        assert one.problem is two.problem is None
    assert not (tmp_path / "data").exists()


def test_unreachable_server_is_reported_without_address(tmp_path: Path) -> None:
    engine = open_database(f"postgresql+psycopg://user:secret@/db?host={tmp_path}", tmp_path)
    with pytest.raises(DatabaseUnreachable, match="cannot be reached") as caught:
        prepare(engine)
    assert str(tmp_path) not in caught.value.detail
    assert "secret" not in caught.value.detail


def test_missing_database_is_reported(postgres: PostgresServer, tmp_path: Path) -> None:
    engine = open_database(postgres.url("nowhere"), tmp_path)
    with pytest.raises(DatabaseUnreachable, match="unknown database or user"):
        prepare(engine)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("57P01", DatabaseUnreachable, "starting or stopping"),
        ("53300", DatabaseUnreachable, "too many connections"),
        ("40P01", DatabaseUnreachable, "try again"),
        ("53100", StorageUnavailable, "disk full"),
        ("25006", StorageUnavailable, "read-only"),
        ("42501", StorageUnavailable, "permission denied"),
        ("42P01", StorageUnavailable, "table missing"),
        ("22012", StorageUnavailable, "error 22012"),
    ],
)
def test_server_errors_are_translated(
    engine: Engine, code: str, kind: type[StorageUnavailable], words: str
) -> None:
    raising = text(f"DO $$ BEGIN RAISE EXCEPTION 'internals' USING ERRCODE = '{code}'; END $$")
    with (
        pytest.raises(StorageUnavailable, match=words) as caught,
        storage_errors(),
        engine.begin() as connection,
    ):
        connection.execute(raising)
    assert type(caught.value) is kind
    assert "internals" not in caught.value.detail


def test_lost_connection_fails_one_transaction_only(engine: Engine, postgres: PostgresServer) -> None:
    prepare(engine)

    def cut_off_halfway() -> None:
        with storage_errors(), engine.begin() as connection:
            connection.execute(text("INSERT INTO latency_progress VALUES ('half', 1)"))
            process = connection.execute(text("SELECT pg_backend_pid()")).scalar()
            with postgres.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (process,))
            connection.execute(text("INSERT INTO latency_progress VALUES ('other half', 1)"))

    with pytest.raises(DatabaseUnreachable):
        cut_off_halfway()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM latency_progress")).scalar() == 0


def test_read_transaction_sees_one_snapshot(engine: Engine) -> None:
    prepare(engine)
    with engine.connect().execution_options(**READING) as reader:
        assert reader.execute(text("SELECT count(*) FROM latency_progress")).scalar() == 0
        with engine.begin() as writer:
            writer.execute(text("INSERT INTO latency_progress VALUES ('hours_from', 1)"))
        assert reader.execute(text("SELECT count(*) FROM latency_progress")).scalar() == 0
    with engine.connect() as reader:
        assert reader.execute(text("SELECT count(*) FROM latency_progress")).scalar() == 1


@pytest.mark.slow
def test_concurrent_writes_and_drops(database_url: str, tmp_path: Path) -> None:
    stores = [LatencyStore(open_database(database_url, tmp_path)) for _ in range(4)]
    for store in stores:
        store.ensure_open()
    problems: list[BaseException] = []

    def work(store: LatencyStore, instance: str) -> None:
        try:
            for hour in range(30):
                for milliseconds in ((1,), (1, 2)):  # the second time over the first
                    store.write(at_every_resolution(DAY + hour * HOUR_S, *milliseconds, instance=instance))
                store.maintain(DAY + hour * HOUR_S + 2 * DAY_S - 20 * HOUR_S)
        except BaseException as error:
            problems.append(error)
            raise

    threads = [
        threading.Thread(target=work, args=(store, str(number))) for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert counts(stores[0], HOUR_S) == {DAY + hour * HOUR_S: 4 * 2 for hour in range(30)}
    assert counts(stores[0], DAY_S) == {DAY: 4 * 2, DAY + DAY_S: 4 * 2}
    assert counts(stores[0], MINUTE_S) == {DAY + hour * HOUR_S: 4 * 2 for hour in range(9, 30)}
    assert len(stored_parts(stores[1], MINUTE_S)) == 4 * 21
    for store in stores:
        store.close()


@pytest.mark.slow
def test_emptied_database_is_created_again(engine: Engine, database_url: str, tmp_path: Path) -> None:
    store = LatencyStore(open_database(database_url, tmp_path))
    assert store.ensure_open()
    store.write([recorded(DAY, 1)])
    assert not store.ensure_open()
    with engine.begin() as connection:
        for table in ("alembic_version", *metadata.tables):
            connection.execute(text(f"DROP TABLE {table} CASCADE"))
    with pytest.raises(StorageUnavailable, match="table missing"):
        store.write([recorded(DAY, 1, 2)])
    assert store.ensure_open()
    store.write([recorded(DAY, 1, 2)])
    (row,) = stored_parts(store, MINUTE_S)
    assert row.distributions[TOTAL].count == 2
    store.close()
