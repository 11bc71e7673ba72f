"""What can be set, and the only reader of the environment (`WEIGHIN_*`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"
"""The models that come with the project."""


class Settings(BaseSettings):
    """Settings of one process; each is read from the environment as `WEIGHIN_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="WEIGHIN_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on. Loopback by default: nothing here asks who is calling."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""
    model_dirs: Annotated[tuple[Path, ...], NoDecode] = (ZOO,)
    """Zoo folders, separated by `:` (`;` on Windows), each with a folder per model. Of two models with one
    name the first found is served."""
    default_model: str = "efficientnet-lite0-int8"
    """The model that answers when a request names none."""
    data_dir: Path = Path("data")
    """Where state is kept. One process at a time."""
    database_url: str | None = None
    """SQLAlchemy URL; by default an SQLite file in the data directory."""
    gallery_model: str | None = None
    """The model that embeds a new gallery's images; by default the default model. One that has images keeps
    its own until it is reindexed."""
    gallery_max_images: int = Field(100_000, ge=0)
    """Images that the gallery may hold; one more gets 507."""
    gallery_max_bytes: int = Field(10_000_000_000, ge=0)
    """Bytes that the originals of all images may have together; more gets 507."""
    gallery_exact_up_to: int = Field(20_000, ge=0)
    """Images up to which a search of the embedded gallery looks at every one; above, an HNSW index finds
    candidates."""
    threads: int | None = Field(None, ge=1, le=256)
    """Threads that decode and run networks; by default the cores that affinity and cgroup leave."""
    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a thread; one more gets 503."""
    deadline_s: float = Field(10.0, gt=0)
    """Seconds from a request's arrival within which it must have a thread, else 504; also the longest that a
    body may take to arrive."""
    max_body_bytes: int = Field(20_000_000, ge=1)
    """Bytes that a body may have; more gets 413 while it is read."""
    max_pixels: int = Field(64_000_000, ge=1)
    """Pixels that an image may have by its header; more gets 413 before any is decoded."""
    compare_budget_s: float = Field(2.0, gt=0)
    """Seconds of the cores that one comparison may take; more gets 422 before it starts."""
    shutdown_grace_s: float = Field(8.0, ge=0)
    """Seconds that requests in flight have to end after SIGTERM."""
    allowed_origins: Annotated[frozenset[str], NoDecode] = frozenset()
    """Other origins, separated by commas, whose pages may POST here, e.g. `https://example.org`."""
    api_key: SecretStr | None = None
    """When set, whoever changes state has to send it: `Authorization: Bearer <key>`, else 401."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`text` for people, `json` for machines, `auto`: text on a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""
    log_requests: bool = False
    """Whether each request gets a line in the log."""

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator("api_key")
    @classmethod
    def _not_empty(cls, value: SecretStr | None) -> SecretStr | None:
        # An empty key would look like protection and be none: a variable that is set but empty means unset.
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(part.strip() for part in value.split(",") if part.strip())
        return value
