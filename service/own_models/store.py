"""Store of models in a database that replicas share.

It has the files of models, the names of deleted models, and the runtimes that were chosen for models. Files
are stored in chunks, under the SHA-256 of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from models.zoo.files import read_chunks
from service.errors import ModelExists, ModelUnavailable, StorageUnavailable
from service.own_models.folders import MARKER
from service.storage.database import READING, metadata, prepare, upsert, writing
from service.storage.errors import storage_errors

CHUNK_BYTES = 4 << 20
"""Number of bytes of a file per row. A replica has one chunk of a file in memory at a time.

PostgreSQL allows 1 GB per row."""

_LOCK_WAIT_S = 30
_SILENT_S = 60
_COPY_FRESH_S, _COPY_KEPT_S = 1800, 3600

Kind = Literal["model", "copy", "runtime"]
"""What a row is about: an added model, the gallery's copy of a network, or a chosen runtime.

A runtime is chosen for a model by a request."""

shared_models = Table(
    "shared_models",
    metadata,
    Column("kind", String(8), nullable=False, comment="model, copy (of the gallery's network), runtime"),
    Column("name", String(80), nullable=False),
    Column("sequence", BigInteger, nullable=False, comment="Number of its last change, in commit order"),
    Column("digest", String(64), nullable=True, comment="Of names and SHA-256 of the files; null: deleted"),
    Column("detail", Text, nullable=True, comment="Of a runtime: the choice as JSON; null: none"),
    Column("stored_ms", BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
    PrimaryKeyConstraint("kind", "name"),
    Index("shared_models_by_sequence", "sequence", unique=True),
)

shared_model_files = Table(
    "shared_model_files",
    metadata,
    Column("kind", String(8), nullable=False),
    Column("name", String(80), nullable=False),
    Column("file", String(255), nullable=False, comment="Its name in the model's folder"),
    Column("sha256", String(64), nullable=False),
    PrimaryKeyConstraint("kind", "name", "file"),
    Index("shared_model_files_by_sha256", "sha256"),
)

shared_model_chunks = Table(
    "shared_model_chunks",
    metadata,
    Column("sha256", String(64), nullable=False, comment="Of the whole file"),
    Column("number", Integer, nullable=False, comment="From 0"),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("sha256", "number"),
)


@dataclass(frozen=True)
class Stored:
    """A row of `shared_models`, about an added model, a copy or a chosen runtime.

    A copy is the gallery's copy of a network. The row of a deleted model or copy stays. `sequence`: number of
    the row's last change, which is larger for later changes. `digest`: digest of the files of a model or
    copy; None if it was deleted. `detail`: the chosen runtime as JSON; None if the choice was withdrawn.
    """

    kind: Kind
    name: str
    sequence: int
    digest: str | None
    detail: str | None


class ModelStore:
    """Store of models on a PostgreSQL server, thread-safe.

    Only one replica makes changes at a time, so sequence numbers are in the order of commits. Methods raise
    StorageUnavailable if the database cannot be used.
    """

    def __init__(self, engine: Engine) -> None:
        """Does not connect to the database."""
        self._engine = engine
        self._prepared = False

    def latest(self) -> int:
        """Return the sequence number of the latest change, or 0 if there is none. Takes one small query."""
        with self._reading() as connection:
            return connection.execute(select(func.max(shared_models.c.sequence))).scalar() or 0

    def all(self) -> list[Stored]:
        """Return the rows of all models, copies and runtimes, also of deleted ones, oldest change first."""
        with self._reading() as connection:
            return [Stored(**row) for row in connection.execute(_ROWS).mappings()]

    def find(self, kind: Kind, name: str) -> Stored | None:
        """Return the row of a model, copy or runtime, or None if there has never been one."""
        with self._reading() as connection:
            return _find(connection, kind, name)

    def put(self, name: str, folder: Path, *, replace: bool) -> str:
        """Store the files of a model's folder, and return their digest.

        Raises ModelExists if the database has a model `name` and `replace` is False, and OSError if a file
        cannot be read.
        """
        files = _hashes(folder)
        with self._changing() as connection:
            stored = _find(connection, "model", name)
            if stored is not None and stored.digest is not None and not replace:
                raise ModelExists(f"model '{name}': exists (allowed: another name, or replace it)")
            return _save(connection, "model", name, folder, files)

    def remove(self, name: str) -> bool:
        """Delete a model and withdraw the choice of its runtime. Return False if there is no such model."""
        with self._changing() as connection:
            stored = _find(connection, "model", name)
            is_there = stored is not None and stored.digest is not None
            if is_there:
                _drop_files(connection, "model", name)
                _put_row(connection, "model", name)
            chosen = _find(connection, "runtime", name)
            if chosen is not None and chosen.detail is not None:
                _put_row(connection, "runtime", name)
            return is_there

    def choose_runtime(self, name: str, detail: str | None) -> None:
        """Store the runtime that was chosen for a model, as JSON. None withdraws the choice."""
        with self._changing() as connection:
            _put_row(connection, "runtime", name, detail=detail)

    def fetch(self, kind: Kind, name: str, folder: Path) -> str | None:
        """Write the files of a model or copy to an empty folder, and return their digest.

        Return None if the model or copy is not stored. Raises ModelUnavailable, which names the file, if a
        file in the database is damaged. Raises StorageUnavailable also if a file cannot be written.
        """
        self._prepare()
        with storage_errors(), self._engine.connect().execution_options(**READING) as connection:
            stored = _find(connection, kind, name)
            if stored is None or stored.digest is None:
                return None
            files = _files(connection, kind, name)
            if digest_of(files) != stored.digest:
                raise ModelUnavailable(f"model '{name}': its list of files in the database is damaged")
            for file, sha256 in files.items():
                if Path(file).name != file or file == MARKER:
                    raise ModelUnavailable(f"model '{name}': file '{file}' in the database is no file name")
                written = _write_file(connection, sha256, folder / file)
                if written != sha256:
                    raise ModelUnavailable(
                        f"model '{name}': its file {file} in the database is damaged: sha256 "
                        f"{written[:12]}..., stored as {sha256[:12]}..."
                    )
            return stored.digest

    def save_copy(self, name: str, folder: Path) -> None:
        """Store the gallery's copy of a network, unless the copy is stored already.

        Raises OSError if a file cannot be read.
        """
        with self._reading() as connection:
            fresh = (shared_models.c.name == name) & (shared_models.c.stored_ms > _before(_COPY_FRESH_S))
            if connection.execute(_COPIES.where(fresh)).first() is not None:
                return
        files = _hashes(folder)
        with self._changing() as connection:
            if connection.execute(_COPIES.where(shared_models.c.name == name)).first() is None:
                _save(connection, "copy", name, folder, files)
                return
            row = (shared_models.c.kind == "copy") & (shared_models.c.name == name)
            connection.execute(update(shared_models).where(row).values(stored_ms=_NOW_MS))

    def fetch_copy(self, name: str, folder: Path) -> bool:
        """Write the gallery's copy of a network to an empty folder. Return False if the copy is not stored.

        Raises the errors of `fetch`.
        """
        return self.fetch("copy", name, folder) is not None

    def drop_copies(self, needed: Collection[str]) -> None:
        """Delete the gallery's copies of networks whose names are not in `needed`.

        Copies that were stored within the last hour stay, because another replica may be about to need them.
        """
        others = shared_models.c.name.not_in(needed) & (shared_models.c.stored_ms < _before(_COPY_KEPT_S))
        with self._reading() as connection:
            if connection.execute(_COPIES.where(others)).first() is None:
                return
        with self._changing() as connection:
            for name in connection.execute(_COPIES.where(others)).scalars().all():
                _drop_files(connection, "copy", name)
                _put_row(connection, "copy", name)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        self._prepare()
        with storage_errors(), self._engine.connect() as connection:
            try:
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
            except Exception:
                self._prepared = False  # the database may be another one, or empty
                raise

    def _prepare(self) -> None:
        if not self._prepared:
            prepare(self._engine)
            self._prepared = True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Connection]:
        """Yield a transaction during which no other replica can change the stored models.

        The server ends the transaction if it is idle for _SILENT_S seconds.
        """
        with writing(self._engine, lambda: None) as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S * 1000:.0f}ms'")
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_SILENT_S}s'")
            connection.exec_driver_sql(f"LOCK TABLE {shared_models.name} IN SHARE ROW EXCLUSIVE MODE")
            yield connection


_ROWS = select(*(shared_models.c[name] for name in Stored.__dataclass_fields__)).order_by("sequence")
_COPIES = select(shared_models.c.name).where(
    shared_models.c.kind == "copy", shared_models.c.digest.is_not(None)
)
_NOW_MS: ColumnElement[int] = literal_column("(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
"""The time of the database server, because the clocks of replicas may differ."""


def digest_of(files: Mapping[str, str]) -> str:
    """Return the digest of a folder, given the SHA-256 of each file by name."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Return the digest of a model's folder. Raises OSError."""
    return digest_of(_hashes(folder))


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a model's folder, by name, without the marker. Raises OSError."""
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.name != MARKER and not path.is_dir():
            digest = hashlib.sha256()
            for chunk in read_chunks(path, CHUNK_BYTES):
                digest.update(chunk)
            hashes[path.name] = digest.hexdigest()
    return hashes


def _find(connection: Connection, kind: Kind, name: str) -> Stored | None:
    row = connection.execute(
        _ROWS.where(shared_models.c.kind == kind, shared_models.c.name == name)
    ).mappings()
    found = row.first()
    return None if found is None else Stored(**found)


def _files(connection: Connection, kind: Kind, name: str) -> dict[str, str]:
    """Return the SHA-256 of each stored file of a model or copy, by the file's name."""
    table = shared_model_files.c
    query = select(table.file, table.sha256).where(table.kind == kind, table.name == name)
    return {row.file: row.sha256 for row in connection.execute(query)}


def _save(connection: Connection, kind: Kind, name: str, folder: Path, files: Mapping[str, str]) -> str:
    """Replace the stored files of a model or copy by those in `folder`, and return the new digest.

    `files`: the SHA-256 of each file by name. Chunks that are stored already are written again, which repairs
    damaged ones. Raises StorageUnavailable if a file has changed since its SHA-256 was computed.
    """
    for file, sha256 in files.items():
        written = hashlib.sha256()
        for number, chunk in enumerate(read_chunks(folder / file, CHUNK_BYTES)):
            written.update(chunk)
            upsert(connection, shared_model_chunks, [{"sha256": sha256, "number": number, "content": chunk}])
        if written.hexdigest() != sha256:
            raise StorageUnavailable(f"model '{name}': its file {file} was changed while it was stored")
    digest = digest_of(files)
    _drop_files(connection, kind, name, unless=files.values())
    rows = [{"kind": kind, "name": name, "file": file, "sha256": sha256} for file, sha256 in files.items()]
    connection.execute(insert(shared_model_files), rows)
    _put_row(connection, kind, name, digest=digest)
    return digest


def _put_row(connection: Connection, kind: Kind, name: str, **values: Any) -> None:
    """Write the row of a model, copy or runtime, with the next sequence number.

    `values`: the row's digest or detail. A column that is not in `values` becomes null.
    """
    latest, now_ms = connection.execute(select(func.max(shared_models.c.sequence), _NOW_MS)).one()
    row = {"kind": kind, "name": name, "digest": None, "detail": None, "stored_ms": now_ms} | values
    upsert(connection, shared_models, [row | {"sequence": (latest or 0) + 1}])


def _drop_files(connection: Connection, kind: Kind, name: str, unless: Collection[str] = ()) -> None:
    """Delete the stored files of a model or copy, and their chunks.

    Chunks stay if another model or copy has the same file, or if the file's SHA-256 is in `unless`.
    """
    old = set(_files(connection, kind, name).values()) - set(unless)
    table = shared_model_files.c
    connection.execute(delete(shared_model_files).where(table.kind == kind, table.name == name))
    unused = shared_model_chunks.c.sha256.in_(old) & shared_model_chunks.c.sha256.not_in(select(table.sha256))
    connection.execute(delete(shared_model_chunks).where(unused))


def _write_file(connection: Connection, sha256: str, path: Path) -> str:
    """Write a stored file to `path` chunk by chunk, and return the SHA-256 of what was written."""
    table, digest, number = shared_model_chunks.c, hashlib.sha256(), 0
    query = select(table.content).where(table.sha256 == sha256)
    with path.open("xb") as file:
        while (chunk := connection.execute(query.where(table.number == number)).scalar()) is not None:
            digest.update(chunk)
            file.write(chunk)
            number += 1
    return digest.hexdigest()


def _before(seconds: int) -> ColumnElement[int]:
    return _NOW_MS - seconds * 1000
