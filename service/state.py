"""Persistent state of the service: the data directory with its database, or a database on a server."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from service.bench.store import BenchmarkStore
from service.evaluation.store import EvaluationStore
from service.gallery.database import GalleryDatabase
from service.latency.recorder import Recorder
from service.latency.store import LatencyStore
from service.own_models.replicas import SharedModels
from service.own_models.store import ModelStore
from service.storage.database import on_server, open_database
from service.storage.directory import DataDirectory

_CHECK_INTERVAL_S = 5.0


class State:
    """The locked data directory and the stores. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        directory: DataDirectory | None,
        latencies: LatencyStore,
        benchmarks: BenchmarkStore,
        evaluations: EvaluationStore,
        gallery: GalleryDatabase,
        models: ModelStore | None = None,
    ) -> None:
        """`directory`: None if the database is on a server. `models`: None if the database is a file."""
        self.directory = directory
        self.latencies = latencies
        self.benchmarks = benchmarks
        self.evaluations = evaluations
        self.gallery = gallery
        self.models = models
        self._problem: str | None = None
        self._next_check = 0.0

    @property
    def problem(self) -> str | None:
        """Reason why the last check of the data directory or the database server failed, for clients.

        It is None if the check succeeded. Reading this property blocks while a check runs. There is a check
        at most every 5 seconds.
        """
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + _CHECK_INTERVAL_S  # set first, so that other threads do not wait as well
            self._problem = self.gallery.problem if self.directory is None else self.directory.problem
        return self._problem

    def close(self) -> None:
        """Close the database, then release the directory."""
        self.latencies.close()
        if self.directory is not None:
            self.directory.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def storage_problem(state: State, recorder: Recorder, shared: SharedModels) -> str | None:
    """Return why the service cannot store its data, or cannot load the models of other replicas.

    Return None if it can do both. Like `State.problem`, this function blocks while a check runs.
    """
    return state.problem or recorder.problem or shared.problem


def open_state(
    data_dir: Path, database_url: str | None, *, address: str | None = None, machine: str = ""
) -> State:
    """Lock the data directory and create the stores; `Recorder.start` opens the database.

    `machine`: name of this machine, stored with the latencies that it records.

    A database on a server is shared by several processes, which neither create nor lock a directory. Raises
    DataDirectoryInUse if another process has locked the directory, and StorageUnavailable for an unusable
    database URL. If the directory cannot be written, nothing is raised; `State.problem` reports it.
    """
    engine = open_database(database_url, data_dir.absolute())
    if on_server(engine):
        return State(
            None,
            LatencyStore(engine, machine=machine),
            BenchmarkStore(engine),
            EvaluationStore(engine),
            GalleryDatabase(engine),
            ModelStore(engine),
        )
    directory = DataDirectory(data_dir, address).__enter__()
    # A database file may only be written by the process that has locked the directory.
    obstacle = directory.claim
    return State(
        directory,
        LatencyStore(engine, obstacle, machine),
        BenchmarkStore(engine, obstacle),
        EvaluationStore(engine, obstacle),
        GalleryDatabase(engine, obstacle),
    )
