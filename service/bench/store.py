"""Table of benchmarks: request, state and bundle."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Index,
    LargeBinary,
    RowMapping,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)

from service.errors import StorageUnavailable
from service.storage.database import database_file, metadata, reading, writing
from service.storage.errors import DAMAGED

BenchmarkState = Literal["running", "done", "cancelled", "failed", "interrupted"]

SILENT_AFTER_S = 30.0
"""Heartbeat timeout: a running benchmark without a heartbeat for this long has lost its process."""

benchmarks = Table(
    "benchmarks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
    Column("alive_ms", BigInteger, nullable=False, comment="When its process was last heard of"),
    Column("finished_ms", BigInteger, nullable=True),
    Column("request", Text, nullable=False, comment="JSON of what was asked"),
    Column("detail", Text, nullable=True, comment="Why it ended as it did, in words"),
    Column("bundle", LargeBinary, nullable=True, comment="The measurement's JSON, zlib"),
    Index("benchmarks_by_time", "created_ms"),
)
_FACTS = [column for column in benchmarks.c if column.name != "bundle"]


@dataclass(frozen=True)
class BenchmarkRow:
    """A benchmark without its bundle. Times are seconds since 1970; `request` is JSON."""

    id: str
    state: BenchmarkState
    created_at: float
    finished_at: float | None
    request: str
    detail: str | None
    measured: bool


class BenchmarkStore:
    """Store of benchmarks, thread-safe. Methods raise StorageUnavailable if the database cannot be used."""

    def __init__(self, engine: Engine, obstacle: Callable[[], str | None] = lambda: None) -> None:
        """Does not connect. `obstacle` returns the reason, for clients, why writes are refused, or None."""
        self._engine = engine
        self._obstacle = obstacle

    def begin(self, identifier: str, request: str, now: float) -> None:
        """Insert a running benchmark."""
        with writing(self._engine, self._obstacle) as connection:
            moment = _ms(now)
            connection.execute(
                insert(benchmarks).values(
                    id=identifier, state="running", created_ms=moment, alive_ms=moment, request=request
                )
            )

    def heard(self, identifier: str, now: float) -> None:
        """Store a heartbeat: the benchmark's process is alive."""
        with writing(self._engine, self._obstacle) as connection:
            connection.execute(
                update(benchmarks)
                .where(benchmarks.c.id == identifier, benchmarks.c.state == "running")
                .values(alive_ms=_ms(now))
            )

    def finish(
        self,
        identifier: str,
        state: BenchmarkState,
        now: float,
        *,
        detail: str | None = None,
        bundle: bytes | None = None,
    ) -> None:
        """Store the final state, and the bundle's JSON if there is one."""
        with writing(self._engine, self._obstacle) as connection:
            connection.execute(
                update(benchmarks)
                .where(benchmarks.c.id == identifier)
                .values(state=state, finished_ms=_ms(now), detail=detail, bundle=_packed(bundle))
            )

    def add(
        self, identifier: str, request: str, started_at: float, finished_at: float, bundle: bytes
    ) -> None:
        """Insert a finished benchmark of another process, such as the command line."""
        with writing(self._engine, self._obstacle) as connection:
            connection.execute(
                insert(benchmarks).values(
                    id=identifier,
                    state="done",
                    created_ms=_ms(started_at),
                    alive_ms=_ms(finished_at),
                    finished_ms=_ms(finished_at),
                    request=request,
                    bundle=_packed(bundle),
                )
            )

    def rows(self, limit: int, *, measured: bool = False) -> list[BenchmarkRow]:
        """Return up to `limit` benchmarks, newest first; with `measured`, only those with a bundle."""
        query = select(*_FACTS, benchmarks.c.bundle.is_not(None).label("measured"))
        if measured:
            query = query.where(benchmarks.c.bundle.is_not(None))
        query = query.order_by(benchmarks.c.created_ms.desc(), benchmarks.c.id).limit(limit)
        with reading(self._engine, benchmarks) as connection:
            return [] if connection is None else [_row(row) for row in connection.execute(query).mappings()]

    def row(self, identifier: str) -> BenchmarkRow | None:
        """Return a benchmark, or None."""
        query = select(*_FACTS, benchmarks.c.bundle.is_not(None).label("measured"))
        with reading(self._engine, benchmarks) as connection:
            if connection is None:
                return None
            row = connection.execute(query.where(benchmarks.c.id == identifier)).mappings().first()
            return None if row is None else _row(row)

    def bundle(self, identifier: str) -> bytes | None:
        """Return the bundle's JSON, or None."""
        query = select(benchmarks.c.bundle).where(benchmarks.c.id == identifier)
        with reading(self._engine, benchmarks) as connection:
            packed = None if connection is None else connection.execute(query).scalar()
        try:
            return None if packed is None else zlib.decompress(packed)
        except zlib.error as error:
            raise StorageUnavailable(DAMAGED) from error

    def interrupt_lost(self, now: float, *, detail: str) -> None:
        """Mark running benchmarks that have lost their process as interrupted.

        With an SQLite file, all of them are lost, because this process has locked the data directory, and
        benchmark processes end with their service. In a shared database, those without recent heartbeats are.
        """
        lost = [benchmarks.c.state == "running"]
        if database_file(self._engine) is None:
            lost.append(benchmarks.c.alive_ms < _ms(now - SILENT_AFTER_S))
        with writing(self._engine, self._obstacle) as connection:
            connection.execute(
                update(benchmarks)
                .where(*lost)
                .values(state="interrupted", finished_ms=_ms(now), detail=detail)
            )


def _row(row: RowMapping) -> BenchmarkRow:
    finished: int | None = row["finished_ms"]
    state: Any = row["state"]
    return BenchmarkRow(
        id=row["id"],
        state=state,
        created_at=row["created_ms"] / 1000,
        finished_at=None if finished is None else finished / 1000,
        request=row["request"],
        detail=row["detail"],
        measured=bool(row["measured"]),
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _packed(bundle: bytes | None) -> bytes | None:
    return None if bundle is None else zlib.compress(bundle, 6)
