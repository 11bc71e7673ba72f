"""Store of latencies. Each process writes its own minutes, hours and days, which are pooled when read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, literal, select

from service.errors import StorageUnavailable
from service.latency.buckets import GRACE_S, HOUR_S, Bucket, Dropped, bucket_of
from service.latency.rows import (
    maintain,
    note_dropped,
    note_instances,
    note_late_write,
    pool_percentiles,
    read_figures,
    read_last_runs,
    read_machines,
    read_pooled,
    read_progress,
    read_recorded,
    write_parts,
)
from service.latency.series import Figures, Part, Pooled, Run, Scope
from service.latency.stages import Regime
from service.latency.tables import latency_errors, latency_histograms
from service.storage.database import READING, database_file, inode_of, prepare
from service.storage.errors import storage_errors

MAX_MACHINE = 200
"""Maximum number of characters of a machine's name. Further characters are not stored."""


@dataclass(frozen=True, slots=True)
class StoreView:
    """A consistent view of the store, in one read transaction.

    `dropped`: times before which rows may be missing. `late_writes`: number of writes to closed buckets so
    far.
    """

    connection: Connection
    dropped: Dropped
    late_writes: int

    def read(
        self, scope: Scope, first: Bucket, end: int, without: Collection[tuple[Bucket, str]] = ()
    ) -> dict[Bucket, Pooled]:
        """Read pooled buckets. The function `read_pooled` describes the parameters."""
        return read_pooled(self.connection, scope, first, end, without)

    def read_figures(self, scope: Scope, first: Bucket, end: int) -> dict[Bucket, Figures | None]:
        """Read figures of buckets. The value is None for a bucket whose histograms must be merged."""
        return read_figures(self.connection, scope, first, end)

    def read_machines(self) -> set[str]:
        """Return the machines that have recorded latencies, found by `service.latency.rows.read_machines`."""
        return read_machines(self.connection)

    def read_recorded(self, regime: Regime, start: int, model: str | None) -> set[Run]:
        """Return model, version, runtime and machine of the runs since the day that begins at `start`."""
        return read_recorded(self.connection, regime, start, model)

    def read_last_runs(self, regime: Regime, start: int, model: str) -> dict[str, int]:
        """Return, by version, the start of the last hour with runs since the day that begins at `start`.

        If the hours of the last day with runs are no longer kept, it is the start of this day.
        """
        return read_last_runs(self.connection, regime, start, model)


class LatencyStore:
    """Latencies and errors in the database. Methods raise StorageUnavailable if the database cannot be used.

    One thread may write (`ensure_open`, `write`, `maintain`), any thread may read.
    """

    def __init__(
        self, engine: Engine, obstacle: Callable[[], str | None] = lambda: None, machine: str = ""
    ) -> None:
        """Create the store without connecting to the database.

        `ensure_open` connects, so that the service can start while its database is down. `obstacle` returns
        the reason, for clients, why the database must not be opened, or None if it may be opened. `machine`:
        name of this machine, which is stored for each process that records latencies. It is empty if it is
        unknown.
        """
        self.machine = machine[:MAX_MACHINE]
        self._noted: set[str] = set()
        self._engine = engine
        self._obstacle = obstacle
        self._file = database_file(engine)
        self._opened: int | None = None
        self._doubtful = False
        self._is_starting = True
        self._maintained_in: Bucket | None = None
        self.opened_times = 0

    def ensure_open(self) -> bool:
        """Open the database unless it is open. Return whether it was opened now.

        An SQLite database is opened again if its file was replaced. A database on a server is opened again
        after a write to it failed.
        """
        if self._opened is not None and self._opened == inode_of(self._file) and not self._doubtful:
            return False
        self._opened = None
        obstacle = self._obstacle()
        if obstacle is not None:
            raise StorageUnavailable(obstacle)
        if self._file is not None:
            self._engine.dispose()  # connections to a deleted or replaced file would lose writes
        prepare(self._engine)
        with storage_errors(), self._view():
            self._opened = inode_of(self._file)
        self._doubtful = False
        self._noted.clear()
        self.opened_times += 1
        return True

    def write(self, parts: Sequence[Part], *, late: bool = False, dropped: Dropped | None = None) -> None:
        """Write the data of these parts in one transaction.

        Rows with the same bucket, process and series are overwritten.

        `late`: whether other processes may have cached some of the buckets as closed. `dropped`: times; this
        process has dropped buckets of minutes or hours before them without writing these.
        """
        if not parts:
            return
        try:
            with storage_errors(), self._engine.begin() as connection:
                write_parts(connection, parts)
                if self.machine and not all(part.instance in self._noted for part in parts):
                    starts = {part.instance: part.bucket.start for part in parts}
                    note_instances(connection, starts, self.machine)
                if dropped is not None and any(dropped):
                    note_dropped(connection, dropped)
                if late:
                    note_late_write(connection)
            self._noted |= {part.instance for part in parts}
        except StorageUnavailable:
            # A server's database may come back with fewer rows or none, so it must be opened again.
            self._doubtful = self._file is None
            raise

    def maintain(self, now: float) -> None:
        """Once an hour, after the last hour is closed, pool percentiles and delete old rows.

        The first call only deletes, because the start of the service waits for it.
        """
        hour = bucket_of(HOUR_S, now - GRACE_S)
        if hour == self._maintained_in:
            return
        pooled: list[dict[str, Any]] = []
        with storage_errors():
            if not self._is_starting:
                with self._engine.connect().execution_options(**READING) as connection:
                    pooled = pool_percentiles(connection, now)
            with self._engine.begin() as connection:
                maintain(connection, now, pooled)
        self._maintained_in = None if self._is_starting else hour
        self._is_starting = False

    @contextlib.contextmanager
    def view(self) -> Iterator[StoreView]:
        """Open a consistent view of the database."""
        if self._opened is None:
            raise StorageUnavailable("database: not open")
        with storage_errors(), self._view() as view:
            yield view

    def knows(self, model: str | None = None) -> bool:
        """Return whether the store has any row, or any row of `model` if it is given.

        Raises StorageUnavailable if the database cannot be read.
        """
        with self.view() as view:
            for table in (latency_histograms, latency_errors):
                rows = select(literal(1)).select_from(table).limit(1)
                if model is not None:
                    rows = rows.where(table.c.model == model)
                if view.connection.execute(rows).first():
                    return True
        return False

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _view(self) -> Iterator[StoreView]:
        with self._engine.connect().execution_options(**READING) as connection:
            yield StoreView(connection, *read_progress(connection))
