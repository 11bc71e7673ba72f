"""The base of everything that is read from a file or another process."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable, validated fields; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finite(Frozen):
    """The same without infinite numbers and NaN."""

    model_config = ConfigDict(allow_inf_nan=False)
