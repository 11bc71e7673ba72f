"""Table of benchmarks in the database, which all processes share.

It has the request, the machine, the progress, the bundle, and whether the benchmark runs or how it ended.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Index,
    LargeBinary,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    and_,
    case,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from service.bench.fingerprint import Host
from service.errors import Busy, StorageUnavailable
from service.storage.database import (
    dialect_insert,
    has_current_schema,
    metadata,
    on_server,
    reading,
    writing,
)
from service.storage.errors import DAMAGED

BenchmarkState = Literal["running", "done", "cancelled", "failed", "interrupted"]

SILENT_AFTER_S = 30.0
"""A running benchmark that has sent no heartbeat for this many seconds has lost its process."""

CANCELLED = "it was cancelled"
LOST = "the service ended while it ran"
OVERTAKEN = "it could not reach the database, and another benchmark was started on this machine"
"""CANCELLED, LOST and OVERTAKEN are reasons why a benchmark ended; the column `detail` stores them."""

_RUNNING = text("state = 'running'")

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
    Column("machine_id", String(32), nullable=True, comment="Running system that it measures"),
    Column("machine", Text, nullable=True, comment="JSON of the machine"),
    Column("progress", Text, nullable=True, comment="JSON of the progress while it runs"),
    Column("cancel_ms", BigInteger, nullable=True, comment="When it was asked to stop"),
    Index("benchmarks_by_time", "created_ms"),
    Index("benchmarks_running", "machine_id", unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING),
)
_FACTS = ("id", "state", "created_ms", "finished_ms", "request", "detail")
_FACTS_OF_JOBS = ("machine", "progress", "cancel_ms")
"""Columns that are missing in databases of earlier releases."""

# The clock of the database server, because the clocks of the machines that share it may differ. While the
# server was down, no process could store a heartbeat, so silence counts from its start at the earliest.
_SERVER_MS = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
_SERVER_STARTED_MS = "CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000 AS BIGINT)"


@dataclass(frozen=True)
class BenchmarkRow:
    """A benchmark without its bundle. Times are seconds since 1970; `request` and `progress` are JSON.

    `measured` says whether there is a bundle. `machine` is None for benchmarks of earlier releases.
    `cancelling` says that the benchmark was asked to stop, but still runs. `lost` says that it counts as
    running, but has sent no heartbeat for SILENT_AFTER_S.
    """

    id: str
    state: BenchmarkState
    created_at: float
    finished_at: float | None
    request: str
    detail: str | None
    measured: bool
    machine: Host | None = None
    progress: str | None = None
    cancelling: bool = False
    lost: bool = False


class BenchmarkStore:
    """A store reads and writes benchmarks in the database. It is thread-safe.

    Methods raise StorageUnavailable if the database cannot be used.
    """

    def __init__(self, engine: Engine, obstacle: Callable[[], str | None] = lambda: None) -> None:
        """Prepare the store without connecting to the database.

        `obstacle` returns the reason why writes are refused, in words for clients. It returns None if writes
        are allowed.
        """
        self._engine = engine
        self._obstacle = obstacle

    @property
    def shared(self) -> bool:
        """Whether several processes share the database."""
        return on_server(self._engine)

    def begin(self, identifier: str, request: str, now: float, machine: Host | None = None) -> None:
        """Insert a running benchmark. Raises Busy while another benchmark runs on the same machine."""
        moment = _ms(now)
        values = {
            "id": identifier,
            "state": "running",
            "created_ms": moment,
            "alive_ms": self._alive(now),
            "request": request,
            **_columns_of(machine),
        }
        with writing(self._engine, self._obstacle) as connection:
            if machine is not None:
                self._interrupt(connection, now, benchmarks.c.machine_id == machine.id)
            statement = dialect_insert(benchmarks, connection.dialect.name).values(values)
            statement = statement.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
            if connection.execute(statement).rowcount == 1:
                return
            running = select(benchmarks.c.id).where(
                benchmarks.c.state == "running", benchmarks.c.machine_id == values["machine_id"]
            )
            other = connection.execute(running).scalar()
        raise Busy(
            f"benchmark: {'another one' if other is None else repr(other)} is running on this machine, in "
            "another process (limit: 1 per machine)"
        )

    def heard(
        self, identifier: str, now: float, progress: str | None = None, *, cancelling: bool = False
    ) -> bool:
        """Store a heartbeat of the benchmark's process. Return whether the benchmark was asked to stop.

        `progress` is JSON. `cancelling` says that the process already knows that the benchmark is to stop. A
        benchmark that was marked as interrupted, because it had sent no heartbeat, is running again after
        this call. Raises Busy if another benchmark has been started on the machine in the meantime.
        """
        values: dict[str, Any] = {"state": "running", "finished_ms": None, "detail": None}
        values |= {"alive_ms": self._alive(now), "progress": progress}
        if cancelling:
            values["cancel_ms"] = func.coalesce(benchmarks.c.cancel_ms, _ms(now))
        running = benchmarks.c.state == "running"
        lost = and_(benchmarks.c.state == "interrupted", benchmarks.c.detail == LOST)
        this = benchmarks.c.id == identifier
        with writing(self._engine, self._obstacle) as connection:
            try:
                connection.execute(update(benchmarks).where(this, or_(running, lost)).values(values))
            except IntegrityError as error:
                raise Busy(f"benchmark '{identifier}': {OVERTAKEN} (limit: 1 per machine)") from error
            asked = connection.execute(select(benchmarks.c.cancel_ms).where(this, running)).scalar()
        return asked is not None

    def request_cancel(self, identifier: str, now: float) -> bool:
        """Ask the process that runs a benchmark to stop it. Return False if the benchmark has ended."""
        with writing(self._engine, self._obstacle) as connection:
            result = connection.execute(
                update(benchmarks)
                .where(benchmarks.c.id == identifier, benchmarks.c.state == "running")
                .values(cancel_ms=func.coalesce(benchmarks.c.cancel_ms, _ms(now)))
            )
            return result.rowcount == 1

    def finish(
        self,
        identifier: str,
        state: BenchmarkState,
        now: float,
        *,
        detail: str | None = None,
        bundle: bytes | None = None,
    ) -> None:
        """Store how a benchmark has ended, and the bundle's JSON if there is a bundle.

        A benchmark that was asked to stop is stored as cancelled, even if its process did not know of this.
        """
        values: dict[str, Any] = {"state": state, "detail": detail}
        if state != "cancelled":
            asked = benchmarks.c.cancel_ms.is_not(None)
            values["state"] = case((asked, "cancelled"), else_=state)
            values["detail"] = case((asked, cancelled_detail(CANCELLED, bundle)), else_=detail)
        with writing(self._engine, self._obstacle) as connection:
            connection.execute(
                update(benchmarks)
                .where(benchmarks.c.id == identifier)
                .values(finished_ms=_ms(now), bundle=_packed(bundle), progress=None, **values)
            )

    def add(
        self,
        identifier: str,
        request: str,
        started_at: float,
        finished_at: float,
        bundle: bytes,
        machine: Host | None = None,
    ) -> None:
        """Insert a finished benchmark that another process measured, such as one of the command line."""
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
                    **_columns_of(machine),
                )
            )

    def rows(self, limit: int, *, measured: bool = False) -> list[BenchmarkRow]:
        """Return up to `limit` benchmarks, newest first.

        With `measured`, return only benchmarks that have a bundle.
        """
        with self._reading() as (connection, query):
            if connection is None:
                return []
            if measured:
                query = query.where(benchmarks.c.bundle.is_not(None))
            query = query.order_by(benchmarks.c.created_ms.desc(), benchmarks.c.id).limit(limit)
            return [_row(row) for row in connection.execute(query).mappings()]

    def row(self, identifier: str) -> BenchmarkRow | None:
        """Return a benchmark, or None if it does not exist."""
        with self._reading() as (connection, query):
            if connection is None:
                return None
            row = connection.execute(query.where(benchmarks.c.id == identifier)).mappings().first()
            return None if row is None else _row(row)

    def bundle(self, identifier: str) -> bytes | None:
        """Return the JSON of a benchmark's bundle, or None if there is no bundle."""
        query = select(benchmarks.c.bundle).where(benchmarks.c.id == identifier)
        with reading(self._engine, benchmarks) as connection:
            packed = None if connection is None else connection.execute(query).scalar()
        try:
            return None if packed is None else zlib.decompress(packed)
        except zlib.error as error:
            raise StorageUnavailable(DAMAGED) from error

    def interrupt_lost(self, now: float) -> None:
        """Mark running benchmarks that have lost their process as interrupted.

        With an SQLite file, every benchmark that is stored as running has lost its process: this process has
        locked the data directory, so the service that ran the benchmark has ended, and with it the process of
        the benchmark. In a shared database, a benchmark has lost its process if it has sent no heartbeat for
        SILENT_AFTER_S.
        """
        with writing(self._engine, self._obstacle) as connection:
            self._interrupt(connection, now, true())

    def _interrupt(self, connection: Connection, now: float, which: ColumnElement[bool]) -> None:
        lost = self._silent() if self.shared else true()
        connection.execute(
            update(benchmarks)
            .where(benchmarks.c.state == "running", lost, which)
            .values(state="interrupted", finished_ms=_ms(now), detail=LOST, progress=None)
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[Connection | None, Select[Any]]]:
        """Yield a connection, and a query that selects the columns that `_row` needs.

        The connection is None if there is no database.
        """
        with reading(self._engine, benchmarks) as connection:
            columns: list[ColumnElement[Any]] = [benchmarks.c[name] for name in _FACTS]
            columns.append(benchmarks.c.bundle.is_not(None).label("measured"))
            lost = and_(benchmarks.c.state == "running", self._silent()) if self.shared else false()
            columns.append(lost.label("lost"))
            current = connection is not None and has_current_schema(connection, self._engine)
            columns += [benchmarks.c[name] if current else null().label(name) for name in _FACTS_OF_JOBS]
            yield connection, select(*columns)

    def _alive(self, now: float) -> int | ColumnElement[int]:
        """Return the value to store in `alive_ms`.

        In a shared database this is the time of the database server, else `now`.
        """
        return literal_column(_SERVER_MS, BigInteger) if self.shared else _ms(now)

    def _silent(self) -> ColumnElement[bool]:
        """Return the SQL condition that a benchmark has sent no heartbeat for SILENT_AFTER_S.

        It is for a shared database only.
        """
        heard = func.greatest(benchmarks.c.alive_ms, literal_column(_SERVER_STARTED_MS, BigInteger))
        return literal_column(_SERVER_MS, BigInteger) - heard > _ms(SILENT_AFTER_S)


def cancelled_detail(reason: str, bundle: bytes | None) -> str:
    """Return the text for `detail` of a cancelled benchmark, from the reason why it was cancelled."""
    return reason if bundle is not None else f"{reason}, before the first results"


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
        machine=None if row["machine"] is None else Host.model_validate_json(row["machine"], extra="ignore"),
        progress=row["progress"],
        cancelling=state == "running" and row["cancel_ms"] is not None,
        lost=bool(row["lost"]),
    )


def _columns_of(machine: Host | None) -> dict[str, str | None]:
    return {
        "machine_id": None if machine is None else machine.id,
        "machine": None if machine is None else machine.model_dump_json(),
    }


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _packed(bundle: bytes | None) -> bytes | None:
    return None if bundle is None else zlib.compress(bundle, 6)
