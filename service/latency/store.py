"""Keeps what was recorded: each process writes its own rows, and all are read back by bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, literal, select

from service.errors import StorageUnavailable
from service.latency.recorded import MINUTE_S, Bucket, Recorded, Scope, Told
from service.latency.rollup import Progress, drop_old, read_progress, reopen, roll_up
from service.latency.rows import read_rows, read_summaries, write_rows
from service.storage.database import READING, database_file, prepare
from service.storage.errors import storage_errors
from service.storage.tables import latency_errors, latency_histograms

GRACE_S = 120
"""A bucket that ended this long ago is closed: by then every instance has written its part, unless it could
not, and then it takes back the sums in which its part is missing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent view of the store."""

    connection: Connection
    progress: Progress

    def read(self, scope: Scope, first: Bucket, end: int) -> list[Recorded]:
        """What is kept of it in the buckets as long as `first`, from `first` to before `end` (seconds)."""
        return read_rows(self.connection, scope, first, end)

    def read_summaries(self, scope: Scope, first: Bucket, end: int) -> dict[int, Told | None]:
        """The same as figures, by the start of the bucket; None where the histograms have to be merged."""
        return read_summaries(self.connection, scope, first, end)


class LatencyStore:
    """Latencies and errors in the database. Methods raise StorageUnavailable when it cannot be used.

    One thread writes (`ensure_open`, `write`, `maintain`); others may read meanwhile.
    """

    def __init__(self, engine: Engine, obstacle: Callable[[], str | None] = lambda: None) -> None:
        """Does not connect: `ensure_open` does, so that a service without its database still starts.

        `obstacle`: why the database must not be opened now, in words for a client; None when it may.
        """
        self._engine = engine
        self._obstacle = obstacle
        self._file = database_file(engine)
        self._opened: int | None = None
        self._doubtful = False
        self._progress = Progress()
        self._rewritten = 0

    @property
    def rewritten(self) -> int:
        """A number that changes when a closed bucket did: what is remembered of closed buckets is void."""
        return self._rewritten

    def ensure_open(self) -> bool:
        """Open the database unless it is open. True when it was opened now, as when its file was gone or a
        server refused something."""
        if self._opened is not None and self._opened == self._inode() and not self._doubtful:
            return False
        self._opened = None
        obstacle = self._obstacle()
        if obstacle is not None:
            raise StorageUnavailable(obstacle)
        if self._file is not None:
            self._engine.dispose()  # connections to a file that was deleted or replaced write to nowhere
        prepare(self._engine)
        with storage_errors(), self._view() as view:
            self._progress = view.progress
        self._opened = self._inode()
        self._doubtful = False
        self._rewritten += 1
        return True

    def bucket_for(self, moment: float) -> Bucket:
        """Where to record at that moment."""
        return self._progress.bucket_for(moment)

    def write(self, recorded: Sequence[Recorded]) -> None:
        """Write the series given, over what the same instance wrote of that bucket before; all or nothing."""
        if not recorded:
            return
        with self._doubting_after_errors(), storage_errors(), self._engine.begin() as connection:
            before = read_progress(connection, for_update=True)
            after = reopen(connection, before, [part.bucket for part in recorded])
            write_rows(connection, recorded)
        self._progress = after
        if after != before or any(part.bucket.resolution_s != MINUTE_S for part in recorded):
            self._rewritten += 1

    def maintain(self, now: float, unsaved_from: float | None) -> None:
        """Sum up closed hours and days, then drop what was kept long enough.

        `unsaved_from`: start of the oldest bucket that is still recorded into or could not be written yet.
        """
        closed_until = min(now - GRACE_S, now if unsaved_from is None else unsaved_from)
        if not self._progress.behind(closed_until):
            return
        with storage_errors():
            # One transaction for each, so that a backlog does not keep other writers out.
            while self._progress.behind(closed_until):
                with self._engine.begin() as connection:
                    progress = roll_up(connection, closed_until)
                self._progress = progress
            with self._engine.begin() as connection:
                progress = drop_old(connection, now)
            self._progress = progress

    @contextlib.contextmanager
    def view(self) -> Iterator[Reading]:
        """Read several things from one state of the database."""
        if self._opened is None:
            raise StorageUnavailable("the database is not open")
        with storage_errors(), self._view() as view:
            yield view

    def knows(self, model: str) -> bool:
        """Whether anything is kept of this model."""
        with self.view() as view:
            return any(
                view.connection.execute(select(literal(1)).where(table.c.model == model).limit(1)).first()
                for table in (latency_histograms, latency_errors)
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _view(self) -> Iterator[Reading]:
        with self._engine.connect().execution_options(**READING) as connection:
            yield Reading(connection, read_progress(connection))

    @contextlib.contextmanager
    def _doubting_after_errors(self) -> Iterator[None]:
        """Open a server's database anew after an error: it may come back with less in it, or with nothing."""
        try:
            yield
        except StorageUnavailable:
            self._doubtful = self._file is None
            raise

    def _inode(self) -> int | None:
        if self._file is None:
            return 0
        try:
            return self._file.stat().st_ino
        except OSError:
            return None
