"""Base classes for data that is read from a file or comes from another process."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable, validated fields; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finite(Frozen):
    """Frozen fields that reject infinite numbers and NaN."""

    model_config = ConfigDict(allow_inf_nan=False)
