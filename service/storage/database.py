"""The database: opening, transactions and schema migration for SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakSet

from filelock import FileLock
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    MetaData,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError

from service.errors import StorageUnavailable
from service.storage.errors import storage_errors
from service.text.urls import database_url, redacted

SCHEMA = "0009"
"""Revision of the newest migration. Migrations are loaded only if the database has another revision."""

FILE_NAME = "weighin.db"

metadata = MetaData()
"""Tables of all features. Each feature defines its own tables, and the migrations create them."""

READING = {"weighin_reading": True}
"""Execution options for read-only transactions, which do not wait for a writer and read one snapshot."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS = 5000
_prepared: WeakSet[Engine] = WeakSet()  # engines whose database had SCHEMA while this process ran
_MIGRATION_LOCK = 0x7765_6967  # key of an advisory lock: a number that nothing else uses
_POSTGRESQL: dict[str, Any] = {
    "pool_pre_ping": True,  # no request fails after a server restart
    "pool_size": 10,
    "max_overflow": 10,
    "pool_timeout": 5.0,
}
_POSTGRESQL_CONNECTION = {  # an unresponsive server is given up within ten seconds
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "tcp_user_timeout": "10000",
    "application_name": "weighin",
    "client_encoding": "utf8",  # otherwise a database in the C locale returns bytes for text
}


def open_database(url: str | None, data_dir: Path) -> Engine:
    """Create an engine for `url`, or for an SQLite file in `data_dir` if `url` is None. Do not connect.

    Raises StorageUnavailable for a URL that cannot be used. The message hides passwords in the URL.
    """
    given = url is not None
    if url is None:
        url = f"sqlite:///{(data_dir / FILE_NAME).absolute()}"
    try:
        parsed = make_url(database_url(url))
        server = parsed.get_backend_name() == "postgresql"
        if server:
            _check_parameters(parsed)
            parsed = parsed.set(query={**_POSTGRESQL_CONNECTION, **parsed.query})
        elif parsed.database and not Path(parsed.database).parent.is_dir() and given:
            raise ValueError("folder of the file not found")
        engine = create_engine(parsed, **(_POSTGRESQL if server else {}))
    except (ArgumentError, ImportError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else "cannot be used"
        raise StorageUnavailable(f"WEIGHIN_DATABASE_URL '{redacted(url)}': {reason}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif server:
        event.listen(engine, "begin", _begin_postgresql)
    return engine


def _check_parameters(url: URL) -> None:
    """Raise ValueError if the URL has a query parameter that libpq does not know."""
    import psycopg

    for name in url.query:
        try:
            psycopg.conninfo.make_conninfo(**{name: ""})
        except psycopg.ProgrammingError:
            shown = name if name.isidentifier() else "***"  # any other text may be part of a password
            raise ValueError(
                f"unknown parameter '{shown}' (allowed: those of libpq, such as sslmode)"
            ) from None


def database_file(engine: Engine) -> Path | None:
    """Return the file of an SQLite database. Return None for a database in memory or on a server."""
    name = engine.url.database if engine.dialect.name == "sqlite" else None
    return Path(name) if name and name != ":memory:" else None


def inode_of(file: Path | None) -> int | None:
    """Return the inode of a database file, which changes when the file is replaced.

    Returns None if the file is gone, and 0 if `file` is None.
    """
    if file is None:
        return 0
    try:
        return file.stat().st_ino
    except OSError:
        return None


def on_server(engine: Engine) -> bool:
    """Return whether the database is on a server, which several processes share."""
    return engine.dialect.name != "sqlite"


def prepare(engine: Engine) -> None:
    """Create or migrate the schema, one process at a time.

    Raises StorageUnavailable, without changing the database, if it cannot be opened or written, is damaged,
    or has the schema of a newer version. While replicas are updated, however, processes of the older version
    must go on. So this process accepts a newer schema if two conditions hold: the database is on a server,
    and this process has already used the database with the schema of its own version.
    """
    with storage_errors():
        with engine.connect().execution_options(**READING) as connection:
            if has_current_schema(connection, engine):
                return
        with _migration_lock(engine), engine.begin() as connection:
            revision = _schema(connection)
            if revision == SCHEMA:
                return  # another process was faster
            if not _create(connection):
                _migrate(connection, revision)
        _prepared.add(engine)


@contextlib.contextmanager
def writing(engine: Engine, obstacle: Callable[[], str | None]) -> Iterator[Connection]:
    """Yield a connection in a write transaction, after migrating the schema if needed.

    Raises StorageUnavailable if the database cannot be used, or if `obstacle` returns a reason against
    writing.
    """
    reason = obstacle()
    if reason is not None:
        raise StorageUnavailable(reason)
    prepare(engine)
    with storage_errors(), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def reading(engine: Engine, table: Table) -> Iterator[Connection | None]:
    """Yield a connection for reading, or None if `table` does not exist yet.

    The database is neither created nor migrated. Raises StorageUnavailable if it cannot be used.
    """
    file = database_file(engine)
    if file is not None and not file.exists():
        yield None
        return
    with storage_errors(), engine.connect().execution_options(**READING) as connection:
        yield connection if inspect(connection).has_table(table.name) else None


def has_current_schema(connection: Connection, engine: Engine) -> bool:
    """Return whether the database has the current schema. False if its schema is missing or must be migrated.

    A newer schema counts as current if `prepare` accepts it. Otherwise, StorageUnavailable is raised for it.
    """
    revision = _schema(connection)
    if revision == SCHEMA:
        _prepared.add(engine)
    elif revision > SCHEMA and not (on_server(engine) and engine in _prepared):
        raise _too_new(revision)
    return revision >= SCHEMA


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows. Rows of the table that have the same primary key are overwritten."""
    if not rows:
        return
    connection.execute(_upsert(table, connection.dialect.name), rows)


def dialect_insert(table: Table, dialect_name: str) -> Any:
    """Return an INSERT statement with the clauses of this SQL dialect, such as ON CONFLICT.

    Only the dialect of the database is imported, because importing PostgreSQL's takes 40 ms.
    """
    return import_module(f"sqlalchemy.dialects.{dialect_name}").insert(table)


@cache
def _upsert(table: Table, dialect_name: str) -> Executable:
    statement = dialect_insert(table, dialect_name)
    keys = [column.name for column in table.primary_key]
    replaced = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    upsert: Executable = statement.on_conflict_do_update(index_elements=keys, set_=replaced)
    return upsert


def _configure_sqlite(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # _begin_sqlite sends BEGIN
    cursor = connection.cursor()  # type: ignore[attr-defined]
    try:
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # NORMAL could lose commits on power failure
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA journal_size_limit = 16777216")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # Writers take the lock at once, because SQLite does not wait if it must upgrade a read transaction.
    reading = connection.get_execution_options().get("weighin_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("weighin_reading", False):
        # A transaction reads one snapshot, as in SQLite.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _schema(connection: Connection) -> str:
    """Return the schema revision of the database. It is empty if there are no tables of Weigh-in."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


@contextlib.contextmanager
def _migration_lock(engine: Engine) -> Iterator[None]:
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


def _create(connection: Connection) -> bool:
    """Create the newest schema in an empty SQLite database. For any other database, return False.

    This runs SQL statements that have the same result as all migrations. It saves the 0.2 s that Alembic
    needs to run the migrations.
    """
    statements = _MIGRATIONS / f"sqlite_{SCHEMA}.sql"
    if connection.dialect.name != "sqlite" or inspect(connection).get_table_names():
        return False
    if not statements.exists():
        return False
    for statement in statements.read_text("utf-8").split(";\n"):
        connection.exec_driver_sql(statement)
    return True


def _migrate(connection: Connection, revision: str) -> None:
    from alembic import command  # imported here, because it takes 0.3 s and is needed once
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision and revision not in known:
        raise _too_new(revision)
    command.upgrade(config, SCHEMA)


def _too_new(revision: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"database: schema {revision} of a newer version (this version supports up to {SCHEMA}; "
        "run the newer version, or set another database or data directory)"
    )
