"""Table of evaluations: one document per data set. Further models are added to the document."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

from pydantic import AwareDatetime, ValidationError
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    select,
)

from models.zoo.card import Fraction, Name, PositiveCount, Task
from models.zoo.frozen import Finite
from service.errors import InvalidEvaluation, StorageUnavailable, UnknownEvaluation
from service.evaluation.merge import merge
from service.evaluation.result import DataKind, Evaluation, EvaluationId, from_json, to_json
from service.storage.database import dialect_insert, metadata, reading, upsert, writing
from service.storage.errors import DAMAGED

_ID = re.compile("[0-9a-f]{16}")

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", String(16), primary_key=True, comment="Begins the data set's SHA-256"),
    Column("finished_ms", BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
    Column("summary", Text, nullable=False, comment="JSON of what a list shows"),
    Column("document", LargeBinary, nullable=False, comment="The evaluation's JSON, zlib"),
    Index("evaluations_by_time", "finished_ms"),
)


class ModelSummary(Finite):
    """Accuracy of one model: top-1 accuracy or average precision, with its 95 % interval."""

    name: Name
    labels: Name
    n: PositiveCount
    value: Fraction
    low: Fraction
    high: Fraction


class EvaluationSummary(Finite):
    """Entry of an evaluation in a list."""

    id: EvaluationId
    name: str
    kind: DataKind
    task: Task
    pictures: PositiveCount
    n: PositiveCount
    classes: int
    finished_at: AwareDatetime
    models: tuple[ModelSummary, ...]


class EvaluationStore:
    """Store of evaluations, thread-safe. Methods raise StorageUnavailable if the database cannot be used."""

    def __init__(self, engine: Engine, obstacle: Callable[[], str | None] = lambda: None) -> None:
        """Create the store without connecting to the database.

        `obstacle` returns the reason why writes are refused, as a message for clients. It returns None if
        they are not refused.
        """
        self._engine = engine
        self._obstacle = obstacle

    def save(self, evaluation: Evaluation) -> Evaluation:
        """Store an evaluation and return it.

        If the data set already has a stored evaluation, both are merged, and the result is stored and
        returned. Raises InvalidEvaluation if the two cannot be of the same data set.
        """
        with writing(self._engine, self._obstacle) as connection:
            if self._insert(connection, evaluation):
                return evaluation
            query = select(evaluations.c.document).where(evaluations.c.id == evaluation.id).with_for_update()
            merged = merge(_unpack(connection.execute(query).scalar_one()), evaluation)
            upsert(connection, evaluations, [_row(merged)])
            return merged

    def summaries(self, limit: int) -> list[EvaluationSummary]:
        """Return summaries of up to `limit` evaluations, newest first."""
        query = select(evaluations.c.summary).order_by(evaluations.c.finished_ms.desc(), evaluations.c.id)
        with reading(self._engine, evaluations) as connection:
            rows = [] if connection is None else connection.execute(query.limit(limit)).scalars().all()
        try:
            return [EvaluationSummary.model_validate_json(row) for row in rows]
        except ValidationError as error:
            raise StorageUnavailable(DAMAGED) from error

    def get(self, identifier: str) -> Evaluation:
        """Return an evaluation. Raises UnknownEvaluation."""
        query = select(evaluations.c.document).where(evaluations.c.id == identifier)
        packed = None
        if _ID.fullmatch(identifier):  # other text is no id, and PostgreSQL refuses text with a NUL
            with reading(self._engine, evaluations) as connection:
                packed = None if connection is None else connection.execute(query).scalar()
        if packed is None:
            raise UnknownEvaluation(f"no evaluation '{identifier[:64]}' (see GET /evaluations)")
        return _unpack(packed)

    def _insert(self, connection: Connection, evaluation: Evaluation) -> bool:
        """Insert a row unless its id is already stored, and return whether it was inserted.

        Waits for other writers.
        """
        insert = dialect_insert(evaluations, connection.dialect.name)
        statement = insert.values(**_row(evaluation)).on_conflict_do_nothing()
        return connection.execute(statement.returning(evaluations.c.id)).scalar() is not None


def summarise(evaluation: Evaluation) -> EvaluationSummary:
    """Return the entry of an evaluation in a list."""
    models = []
    for model in evaluation.models:
        figure = model.accuracy
        models.append(
            ModelSummary(
                name=model.name,
                labels=model.labels,
                n=model.n,
                value=figure.value,
                low=figure.low,
                high=figure.high,
            )
        )
    data = evaluation.data
    return EvaluationSummary(
        id=evaluation.id,
        name=data.name,
        kind=data.kind,
        task=data.task,
        pictures=data.pictures,
        n=data.n,
        classes=sum(1 for each in data.classes if each.n),
        finished_at=evaluation.finished_at,
        models=tuple(models),
    )


def _row(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "id": evaluation.id,
        "finished_ms": int(evaluation.finished_at.timestamp() * 1000),
        "summary": summarise(evaluation).model_dump_json(),
        "document": zlib.compress(to_json(evaluation).encode(), 6),
    }


def _unpack(packed: bytes) -> Evaluation:
    try:
        return from_json(zlib.decompress(packed))
    except (zlib.error, InvalidEvaluation) as error:
        raise StorageUnavailable(DAMAGED) from error
