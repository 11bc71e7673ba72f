"""Opens the database and brings its schema up to date."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError

from service.errors import StorageUnavailable

SCHEMA = "0004"
"""Revision of the newest migration; the scripts are only loaded when the database has another."""

FILE_NAME = "weighin.db"

DAMAGED = "the database file is damaged: move it away to start a new one"

READING = {"weighin_reading": True}
"""Execution option of connections that only read, so that they need not wait for a writer."""

_BUSY_TIMEOUT_MS = 5000
_MIGRATION_LOCK = 0x7765_6967  # any number will do that nothing else in that PostgreSQL takes


def open_database(url: str | None, data_dir: Path) -> Engine:
    """An engine for `url`, by default for an SQLite file in `data_dir`. Does not connect: `prepare` does.

    Raises StorageUnavailable for a URL that SQLAlchemy does not understand or has no driver for.
    """
    if url is None:
        url = f"sqlite:///{(data_dir / FILE_NAME).absolute()}"
    try:
        engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    except (ArgumentError, ImportError) as error:
        # The URL may hold a password, so it is not repeated.
        raise StorageUnavailable(
            "WEIGHIN_DATABASE_URL is not a database URL that can be used here"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def database_file(engine: Engine) -> Path | None:
    """The file of an SQLite database; None for one in memory or on a server."""
    name = engine.url.database if engine.dialect.name == "sqlite" else None
    return Path(name) if name and name != ":memory:" else None


def prepare(engine: Engine) -> None:
    """Make or migrate the schema, one process at a time.

    Raises StorageUnavailable when the database cannot be opened or written, is damaged, or has a schema of a
    newer version of this software; it is left as it is then.
    """
    with storage_errors():
        with engine.connect().execution_options(**READING) as connection:
            if _schema(connection) == SCHEMA:
                return
        with _migrating_alone(engine), engine.begin() as connection:
            found = _schema(connection)
            if found == SCHEMA:
                return  # another process was faster
            _migrate(connection, found)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of the database and the file system into StorageUnavailable, in words for a client."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise StorageUnavailable(_explain(error)) from error


def _explain(error: Exception) -> str:
    message = str(error.orig if isinstance(error, DatabaseError) else error).lower()
    if isinstance(error, OSError):
        message = (error.strerror or "").lower()
    for part, explanation in (
        ("full", "the disk is full"),
        ("no space", "the disk is full"),
        ("quota", "the disk quota is used up"),
        ("readonly", "the data directory is read-only"),
        ("read-only", "the data directory is read-only"),
        ("permission", "the data directory may not be written"),
        (
            "unable to open",
            "the database cannot be opened: the data directory is missing or may not be written",
        ),
        ("no such file", "the data directory is missing"),
        ("not a database", DAMAGED),
        ("malformed", DAMAGED),
        ("no such table", DAMAGED),
        ("locked", "another program holds the database"),
        ("i/o error", "the disk reports errors"),
        ("connect", "the database server cannot be reached"),
    ):
        if part in message:
            return explanation
    return "the database cannot be used, see the log"


def _configure_sqlite(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # BEGIN is ours, see _begin_sqlite
    cursor = connection.cursor()  # type: ignore[attr-defined]
    try:
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # NORMAL would lose commits when the power fails
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA journal_size_limit = 16777216")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # Writers take their turn at once: a reader that becomes a writer halfway is refused without waiting.
    reading = connection.get_execution_options().get("weighin_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _schema(connection: Connection) -> str:
    """The revision that the database has; empty for a database without tables of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


@contextlib.contextmanager
def _migrating_alone(engine: Engine) -> Iterator[None]:
    file = database_file(engine)
    if file is not None:
        with FileLock(file.with_name(file.name + ".migrating")):
            yield
    elif engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
    else:
        yield


def _migrate(connection: Connection, found: str) -> None:
    from alembic import command  # takes 0.3 s to import, and is needed once
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found and found not in known:
        raise StorageUnavailable(
            f"the database has schema {found}, this version of Weigh-in knows up to {SCHEMA}: "
            "run the newer version again, or name another data directory"
        )
    command.upgrade(config, SCHEMA)
