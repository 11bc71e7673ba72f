"""The base of everything that is read from a file or another process."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Validated fields that nobody changes; a field of another name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
