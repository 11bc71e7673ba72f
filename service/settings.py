"""Settings from the environment (`WEIGHIN_*`). No other module reads the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from models.zoo.card import Runtime
from models.zoo.display import comma_list
from models.zoo.files import NETWORKS
from service.text.environment import PREFIX, read_environment
from service.text.origins import ANY, parse_origin
from service.text.urls import database_url, redacted

_ROOT_PATH = re.compile(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*")

_URL_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of the two slashes of a URL, `Path` keeps only one


class Settings(BaseSettings):
    """Settings of one process; each is read from the environment variable `WEIGHIN_<NAME>`.

    Empty and blank variables count as unset. Raises ValidationError, which has all invalid settings;
    `setting_problems` formats it.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address or host name to listen on. A name stands for all its addresses, and `::` for every IPv6 and
    IPv4 address. The default is loopback, because reading needs no API key."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one and logs it."""
    model_dirs: Annotated[tuple[Path, ...], NoDecode] = (NETWORKS,)
    """Folders of models, separated by `:` (`;` on Windows). Each has one subfolder per model. If two models
    have the same name, the service uses the one that it finds first. It also searches the folder `models` in
    `WEIGHIN_DATA_DIR`, after all others."""
    default_model: str = "efficientnet-lite0-int8"
    """The model that runs when a request names no model."""
    default_detector: str = "ssd-mobilenet-v2"
    """The model that runs when a request to `/detect` names no model."""
    data_dir: Path = Path("data")
    """Folder for all state. One process locks it, so that no other can use it. With a PostgreSQL database,
    the folder is not locked, and holds only added models, chosen runtimes, a copy of the gallery's model and
    the progress of evaluations."""
    database_url: str | None = None
    """URL of the database: `sqlite:///FILE`, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`. Several
    replicas can share a PostgreSQL database, which needs pgvector ([postgresql.md](postgresql.md))."""
    gallery_model: str | None = None
    """The model that embeds the images of a new gallery. A gallery with images keeps its model until it is
    re-indexed."""
    gallery_max_images: int = Field(100_000, ge=0)
    """Maximum number of images in the gallery; an image beyond it is not stored (507)."""
    gallery_max_bytes: int = Field(10_000_000_000, ge=0)
    """Maximum size of all original images in the gallery together, in bytes; an image beyond it is not stored
    (507)."""
    gallery_exact_up_to: int = Field(20_000, ge=0)
    """Up to this number of images in the gallery, a search compares all of them; beyond it, an HNSW index
    finds candidates. This setting applies only to SQLite; with PostgreSQL, the number is always 2000."""
    runtime: Runtime = "onnxruntime"
    """Runtime of predictions: `onnxruntime`, `openvino` or `auto`. With `auto`, a model runs in
    OpenVINO if OpenVINO is faster on this machine and its answers agree with those of ONNX Runtime. A model's
    card and `PUT /models/{name}/runtime` have precedence ([runtimes.md](runtimes.md))."""
    threads: int | None = Field(None, ge=1, le=256)
    """Number of threads that decode images and run models."""
    max_waiting: int = Field(64, ge=0)
    """Maximum number of requests in the queue; a further request gets 503."""
    deadline_s: float = Field(10.0, gt=0)
    """Maximum time in seconds from the arrival of a request until a thread starts it; after that the request
    gets 504. Also the time limit for receiving a body."""
    max_body_bytes: int = Field(20_000_000, ge=1)
    """Maximum size of a request body in bytes; a larger body gets 413 while it is received. If images are
    sent to `POST /gallery/images` as a form, this is the limit of each image."""
    max_model_bytes: int = Field(500_000_000, ge=1)
    """Maximum size of the body of `POST /models` and `PUT /models/{name}` in bytes; a larger one gets 413."""
    max_pixels: int = Field(64_000_000, ge=1)
    """Maximum number of pixels that the header of an image may declare; more get 413 before decoding."""
    max_batch: int = Field(64, ge=1)
    """Maximum number of images, or of tensors, in a request to `/v2`; a request with more gets 400."""
    compare_budget_s: float = Field(2.0, gt=0)
    """Maximum estimated duration of one comparison in seconds; if the estimate is longer, the comparison does
    not start, and the request gets 422."""
    shutdown_grace_s: float = Field(8.0, ge=0)
    """Time in seconds that requests in flight have to finish after SIGTERM."""
    allowed_origins: Annotated[frozenset[str], NoDecode] = frozenset()
    """Other origins whose pages may use the API, separated by commas, such as `https://example.org`; `*` for
    all."""
    root_path: str = Field("/", validate_default=True)
    """Prefix of the public URLs behind a reverse proxy, such as `/weighin`. It makes no difference whether
    the proxy strips the prefix ([http.md](http.md))."""
    trusted_proxies: Annotated[frozenset[str], NoDecode] = frozenset()
    """Addresses and networks of trusted reverse proxies, separated by commas, or `*` for every peer. Their
    headers `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` are used."""
    api_key: SecretStr | None = None
    """API key. Requests that change state must send `Authorization: Bearer <key>`; otherwise they get 401."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`text` for people, `json` for machines, `auto` for text on a terminal and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum log level."""
    log_requests: bool = False
    """Log one line per request."""

    @property
    def added_models(self) -> Path:
        """The folder of models that were added to the data directory; it may not exist."""
        return self.data_dir / "models"

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part.strip()) for part in value.split(os.pathsep) if part.strip()) or (
                NETWORKS,
            )
        return value

    @field_validator("model_dirs")
    @classmethod
    def _expand_dirs(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(_expanded(path) for path in value)

    @field_validator("data_dir")
    @classmethod
    def _expand_dir(cls, value: Path) -> Path:
        if _URL_AS_PATH.match(str(value)):
            raise ValueError("is a URL (allowed: the path of a folder)")
        return _expanded(value)

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        host = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        port = host.count(":") == 1 or "]" in host
        if port or "/" in host or "*" in host or any(char.isspace() for char in host):
            raise ValueError("should be a host (allowed: a name or an address; 0.0.0.0 or :: for all)")
        return host

    @field_validator("database_url")
    @classmethod
    def _spell_database_url(cls, value: str | None) -> str | None:
        return None if value is None else database_url(value)

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        # An empty key would give no protection, so it counts as unset.
        key = "" if value is None else value.get_secret_value()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("cannot be sent in a header (allowed: printable ASCII characters)")
        return value if key.strip() else None

    @field_validator("log_level", "log_format", "runtime", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        lower = value.lower() if isinstance(value, str) else value
        return "warning" if lower == "warn" else lower

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(map(_checked_origin, comma_list(value)))
        return value

    @field_validator("root_path")
    @classmethod
    def _normal_root_path(cls, value: str) -> str:
        return normal_root_path(value)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(map(_checked_network, comma_list(value)))
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_quotes(cls, value: object) -> object:  # pydantic runs the last validator first
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            raise ValueError(
                "is in quotes (allowed: without them; `docker --env-file` does not remove quotes)"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read variables with `service.text.environment`."""
        assert isinstance(env_settings, EnvSettingsSource)
        values, _ = read_environment(os.environ, settings_cls.model_fields)
        env_settings.env_vars = {f"{PREFIX}{name}".lower(): text for name, text in values.items()}
        return init_settings, env_settings


def environment_warnings() -> list[str]:
    """Return a warning for each WEIGHIN_* variable that is set but ignored."""
    return read_environment(os.environ, Settings.model_fields)[1]


def step_summary() -> Path | None:
    """Return the file for the summary of a GitHub Actions job; None outside of GitHub Actions."""
    path = os.environ.get("GITHUB_STEP_SUMMARY", "")
    return Path(path) if path else None


def malloc_arenas_are_limited() -> bool:
    """Return whether the user has limited the arenas of glibc's malloc. Source: mallopt(3)."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "MALLOC_ARENA_MAX" in os.environ or "glibc.malloc.arena_max=" in tunables


def setting_problems(error: ValidationError, given: Mapping[str, object]) -> list[str]:
    """Return one line per invalid setting: the variable, its value without secrets, and what is allowed.

    `given`: settings from the command line, which are reported as options, not as variables.
    """
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        value = problem["input"]
        source = f"--{name.replace('_', '-')}" if name in given else f"{PREFIX}{name.upper()}"
        shown = f"'{_shown(str(value))[:200]}'"
        if name == "api_key":
            shown = "(not shown)"
        elif name == "database_url":
            shown = f"'{redacted(str(value))[:200]}'"
        elif name in ("allowed_origins", "trusted_proxies"):
            shown = f"'{', '.join(map(_shown, comma_list(str(value))))[:200]}'"
        cause = problem.get("ctx", {}).get("error")
        reason = str(cause) if cause is not None else problem["msg"].removeprefix("Input ")
        if problem["type"].startswith("bool"):
            reason += " (allowed: true, false, yes, no, on, off, 1, 0)"
        lines.append(f"{source} {shown}: {reason}")
    return lines


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("has no home directory for its '~'") from None


def normal_root_path(text: str) -> str:
    """Return a URL prefix with a leading slash and no trailing slash; empty for `/`. Raises ValueError."""
    path = text.strip().strip("/")
    if path and (_ROOT_PATH.fullmatch(path) is None or not {".", ".."}.isdisjoint(path.split("/"))):
        raise ValueError(f"{_shown(text)[:100]!r} is not a path prefix (example: /weighin)")
    return f"/{path}" if path else ""


def _checked_network(text: str) -> str:
    try:
        return ANY if text == ANY else str(_network(text))
    except ValueError:
        examples = "127.0.0.1, 10.0.0.0/8, ::1, *"
        raise ValueError(
            f"{_shown(text)[:100]!r} is not an address or network (examples: {examples})"
        ) from None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the network; IPv4-mapped IPv6 networks are converted to IPv4."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _shown(text: str) -> str:
    """Return a setting's value, or one item of a list, without the password of a URL."""
    return redacted(text) if "://" in text or "@" in text else text


def _checked_origin(text: str) -> str:
    origin = ANY if text == ANY else parse_origin(text)
    if origin is None:
        examples = "https://app.example.org, http://10.0.0.7:3000, *"
        raise ValueError(f"{_shown(text)[:100]!r} is not an origin (examples: {examples})")
    return str(origin)


_COMPUTED_DEFAULTS = {
    "model_dirs": "`models/zoo/networks` of the project",
    "database_url": "SQLite in the data directory",
    "gallery_model": "the default model",
    "threads": "number of cores that CPU affinity and cgroup allow",
}


def settings_table() -> str:
    """Return the settings as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = _COMPUTED_DEFAULTS.get(name)
        if default is None:
            value = str(field.default).lower() if isinstance(field.default, bool) else field.default
            default = f"`{value}`" if value not in (None, frozenset()) else "none"
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"
