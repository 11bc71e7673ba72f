"""The database opens as it should, is migrated once, and is left alone when it cannot be used."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import service.state  # noqa: F401  defines the tables of all features
from service.errors import StorageUnavailable
from service.storage import migrations
from service.storage.database import FILE_NAME, SCHEMA, metadata, open_database, prepare


def prepare_in(folder: str) -> None:
    prepare(open_database(None, Path(folder)))


def exit_codes_of_three(target: Callable[[str], None], argument: str) -> list[int | None]:
    """Run `target` in three processes at once, with all imported already, and return their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["service.state", "alembic.command"])
    processes = [context.Process(target=target, args=(argument,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_migrations_create_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = open_database(None, tmp_path)
    prepare(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def dump(file: Path) -> list[str]:
    """Return the statements that make the tables, rows and indices of a database, sorted."""
    connection = sqlite3.connect(file)
    statements = [line for line in connection.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")]
    connection.close()
    return sorted(statements)  # Alembic makes the indices of a table in any order


def test_new_database_is_as_the_migrations_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a new migration, rename the file and write what this test expects into it."""
    file = Path(migrations.__file__).parent / f"sqlite_{SCHEMA}.sql"
    for folder in (tmp_path / "new", tmp_path / "migrated"):
        folder.mkdir()
        engine = open_database(None, folder)
        if folder.name == "migrated":
            monkeypatch.setattr("service.storage.database._create", lambda _: False)
        prepare(engine)
        engine.dispose()
        expected = dump(folder / FILE_NAME)
        assert sorted(f"{line};" for line in file.read_text("utf-8").rstrip(";\n").split(";\n")) == expected


def test_database_with_other_tables_is_migrated(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / FILE_NAME)
    other.execute("CREATE TABLE mine (id INTEGER)")
    other.close()
    engine = open_database(None, tmp_path)
    prepare(engine)
    engine.dispose()
    names = {line.split()[2] for line in dump(tmp_path / FILE_NAME) if line.startswith("CREATE TABLE")}
    assert {"mine", "benchmarks"} <= names


def test_schema_constant_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA


def test_sqlite_survives_power_loss(tmp_path: Path) -> None:
    engine = open_database(None, tmp_path)
    prepare(engine)
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 5000
    engine.dispose()


@pytest.mark.slow
def test_concurrent_processes_migrate_once(tmp_path: Path) -> None:
    assert exit_codes_of_three(prepare_in, str(tmp_path)) == [0, 0, 0]


def test_newer_schema_is_refused_and_unchanged(tmp_path: Path) -> None:
    engine = open_database(None, tmp_path)
    prepare(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        StorageUnavailable, match=rf"schema 9999 of a newer version \(this version supports up to {SCHEMA}"
    ):
        prepare(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()


def test_older_database_is_migrated_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_database(None, tmp_path)
    with monkeypatch.context() as before:
        before.setattr("service.storage.database.SCHEMA", "0002")
        prepare(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO benchmarks (id, state, created_ms, alive_ms, request) "
                "VALUES ('mine', 'done', 1, 1, '{}')"
            )
        )
    prepare(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == SCHEMA
        assert connection.execute(text("SELECT id FROM benchmarks")).scalars().all() == ["mine"]
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_damaged_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    content = b"this is no database, but it is mine" * 1000
    (tmp_path / FILE_NAME).write_bytes(content)
    engine = open_database(None, tmp_path)
    with pytest.raises(StorageUnavailable, match=r"damaged \(move it away") as caught:
        prepare(engine)
    assert str(tmp_path) not in caught.value.detail
    engine.dispose()
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    engine = open_database(None, tmp_path / "nowhere")
    with pytest.raises(StorageUnavailable, match="data directory is missing") as caught:
        prepare(engine)
    assert str(tmp_path) not in caught.value.detail


def test_locked_database_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.storage.database._BUSY_TIMEOUT_MS", 10)
    engine = open_database(None, tmp_path)
    prepare(engine)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("UPDATE alembic_version SET version_num = ''")
    other.execute("BEGIN EXCLUSIVE")
    engine.dispose()
    with pytest.raises(StorageUnavailable, match="locked by another program"):
        prepare(engine)
    other.execute("ROLLBACK")
    other.close()
    engine.dispose()


@pytest.mark.parametrize("url", ["nonsense", "nonsense://host/db", "jdbc:postgresql://user:secret@host/db"])
def test_unusable_url_is_reported_without_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        open_database(url, tmp_path)
    assert "WEIGHIN_DATABASE_URL" in caught.value.detail
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_spellings_of_postgresql_urls(tmp_path: Path, scheme: str) -> None:
    engine = open_database(f"{scheme}://user:secret@host/db", tmp_path)
    assert engine.url.drivername == "postgresql+psycopg"
    engine.dispose()


def test_unknown_libpq_parameter_is_named(tmp_path: Path) -> None:
    url = "postgresql://user:secret@host/db?sslmode=require&schema=public"
    with pytest.raises(StorageUnavailable, match="unknown parameter 'schema'") as caught:
        open_database(url, tmp_path)
    assert "secret" not in caught.value.detail
