"""The type of a column of embeddings: pgvector's in PostgreSQL, plain bytes in SQLite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator, TypeEngine

_BYTES = np.dtype("<f4")


class EmbeddingVector(TypeDecorator[NDArray[np.float32]]):
    """float32 (D,) in, the same float32 (D,) out, bit for bit. D may differ from row to row."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type that the database knows."""
        if dialect.name != "postgresql":
            return dialect.type_descriptor(LargeBinary())
        from pgvector.sqlalchemy import VECTOR  # brings PostgreSQL's dialects, which few need

        return dialect.type_descriptor(VECTOR())

    def process_bind_param(self, value: NDArray[np.float32] | None, dialect: Dialect) -> Any:
        """What is sent."""
        if value is None or dialect.name == "postgresql":
            return value
        return np.asarray(value, _BYTES).tobytes()

    def process_result_value(self, value: Any, dialect: Dialect) -> NDArray[np.float32] | None:
        """What has come."""
        if value is None:
            return None
        if dialect.name == "postgresql":
            return np.asarray(value, np.float32)
        return np.frombuffer(value, _BYTES).astype(np.float32, copy=False)
