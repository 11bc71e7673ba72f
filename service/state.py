"""What the service keeps, opened together: the data directory and the database in it, or one on a server."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from service.bench.store import BenchmarkStore
from service.gallery.database import GalleryDatabase
from service.latency.store import LatencyStore
from service.storage.database import on_server, open_database
from service.storage.directory import DataDirectory

_TRY_EVERY_S = 5.0


class State:
    """The directory's lock and the stores; a context, or closed with `close`."""

    def __init__(
        self,
        directory: DataDirectory | None,
        latencies: LatencyStore,
        benchmarks: BenchmarkStore,
        gallery: GalleryDatabase,
    ) -> None:
        """`directory`: None where nothing is kept in one, because a server keeps it."""
        self.directory = directory
        self.latencies = latencies
        self.benchmarks = benchmarks
        self.gallery = gallery
        self._problem: str | None = None
        self._try_again = 0.0

    @property
    def problem(self) -> str | None:
        """Why nothing could be written to the data directory, or the database's server not be reached, at the
        last try, in words for a client; None when all was well. Tried every few seconds, since it waits."""
        now = time.monotonic()
        if now >= self._try_again:
            self._try_again = now + _TRY_EVERY_S  # before, so that others need not wait for a server too
            self._problem = self.gallery.problem if self.directory is None else self.directory.problem
        return self._problem

    def close(self) -> None:
        """Close the database, then let the directory go."""
        self.latencies.close()
        if self.directory is not None:
            self.directory.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_state(data_dir: Path, database_url: str | None, *, address: str | None = None) -> State:
    """Take the data directory and name the database; `Recorder.start` opens that. A database on a server is
    shared by many processes, which then neither make nor lock a directory.

    Raises DataDirectoryInUse when another process has the directory, and StorageUnavailable for a database
    URL that cannot be used. A directory that cannot be written is no error but the state's `problem`.
    """
    engine = open_database(database_url, data_dir.absolute())
    if on_server(engine):
        return State(None, LatencyStore(engine), BenchmarkStore(engine), GalleryDatabase(engine))
    directory = DataDirectory(data_dir, address).__enter__()
    # A file may only be written by the process that has the directory.
    obstacle = directory.claim
    return State(
        directory,
        LatencyStore(engine, obstacle),
        BenchmarkStore(engine, obstacle),
        GalleryDatabase(engine, obstacle),
    )
