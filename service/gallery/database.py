"""Transactions on the gallery's tables. Only one writes at a time, and reading never creates a database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from service.errors import StorageUnavailable
from service.gallery.records import GalleryState
from service.gallery.tables import gallery_state
from service.storage.database import READING, database_file, has_current_schema, inode_of, prepare
from service.storage.errors import DAMAGED, storage_errors

_NAME = "gallery"


class GalleryDatabase:
    """Opens the gallery's database on first use, and again if its file was replaced. Thread-safe.

    Methods raise StorageUnavailable if the database cannot be used.
    """

    def __init__(self, engine: Engine, obstacle: Callable[[], str | None] = lambda: None) -> None:
        """Does not connect to the database.

        `obstacle`: a function that returns why writes are refused, in words for clients, or None if they are
        not.
        """
        self.engine = engine
        self._obstacle = obstacle
        self._file = database_file(engine)
        self._prepared: int | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[Connection, GalleryState]]:
        """Yield a write transaction, and the gallery's state at its start.

        Each such transaction locks the only row of `gallery_state`. So only one process at a time is in such
        a transaction, and the numbered changes of the gallery become visible in the order of their numbers.
        The transaction is committed at the end, or rolled back after an exception.
        """
        obstacle = self._obstacle()
        if obstacle is not None:
            raise StorageUnavailable(obstacle)
        self._prepare()
        with storage_errors(), self.engine.begin() as connection:
            yield connection, read_state(connection, for_update=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """Yield a consistent read transaction, or None if the database has no gallery yet."""
        if inode_of(self._file) is None:
            yield None
            return
        with storage_errors(), self.engine.connect().execution_options(**READING) as connection:
            if self._prepared != inode_of(self._file) and has_current_schema(connection, self.engine):
                self._prepared = inode_of(self._file)
            yield connection if self._prepared == inode_of(self._file) else None

    def state(self) -> GalleryState:
        """Return the gallery's state, or that of an empty gallery if the database has no gallery yet."""
        with self.reading() as connection:
            return GalleryState() if connection is None else read_state(connection)

    @property
    def problem(self) -> str | None:
        """Why the database cannot be reached, in words for clients. It is None if a connection succeeds."""
        try:
            with storage_errors(), self.engine.connect():
                return None
        except StorageUnavailable as error:
            return error.detail

    def _prepare(self) -> None:
        if self._prepared is None or self._prepared != inode_of(self._file):
            prepare(self.engine)
            self._prepared = inode_of(self._file)


def change_state(connection: Connection, **values: Any) -> None:
    """Set columns of the only row of `gallery_state`. Call this within `GalleryDatabase.writing`."""
    connection.execute(update(gallery_state).where(gallery_state.c.name == _NAME).values(**values))


def read_state(connection: Connection, *, for_update: bool = False) -> GalleryState:
    """Return the gallery's state. If `for_update` is true, lock its row until the transaction ends."""
    query = select(gallery_state).where(gallery_state.c.name == _NAME)
    row = connection.execute(query.with_for_update() if for_update else query).mappings().first()
    if row is None:
        raise StorageUnavailable(DAMAGED)
    return GalleryState(**{name: value for name, value in row.items() if name != "name"})
