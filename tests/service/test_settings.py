"""Settings from the environment: spellings and error messages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from models.zoo.files import NETWORKS
from service.settings import (
    Settings,
    environment_warnings,
    malloc_arenas_are_limited,
    setting_problems,
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("WEIGHIN_")]:
        monkeypatch.delenv(name)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, text in variables.items():
        monkeypatch.setenv(f"WEIGHIN_{name.upper()}", text)
    return Settings()


def problems(
    monkeypatch: pytest.MonkeyPatch, given: Mapping[str, object] | None = None, **variables: str
) -> list[str]:
    for name, text in variables.items():
        monkeypatch.setenv(f"WEIGHIN_{name.upper()}", text)
    with pytest.raises(ValidationError) as caught:
        Settings(**(given or {}))  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    return setting_problems(caught.value, given or {})


@pytest.mark.parametrize("text", ["", "  ", "\r", "\r\n"])
def test_blank_variables_are_defaults(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    default = Settings()
    assert settings(monkeypatch, **dict.fromkeys(Settings.model_fields, text)) == default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", " 9000\r", 9000),
        ("threads", "2\r\n", 2),
        ("max_pixels", "20_000_000", 20_000_000),
        ("max_pixels", "1000000.0", 1_000_000),
        ("deadline_s", "2e1", 20.0),
        ("log_requests", "yes", True),
        ("log_requests", "ON", True),
        ("log_requests", "0", False),
        ("log_level", "WARNING", "warning"),
        ("log_level", "warn", "warning"),
        ("log_format", "JSON", "json"),
        ("host", "[::1]", "::1"),
        ("host", "localhost\r", "localhost"),
        ("data_dir", "~/state", Path.home() / "state"),
        ("data_dir", " /var/lib/weighin \r\n", Path("/var/lib/weighin")),
        ("model_dirs", f" ~/zoo {os.pathsep}{os.pathsep} b{os.pathsep}", (Path.home() / "zoo", Path("b"))),
        ("model_dirs", f" {os.pathsep} ", (NETWORKS,)),
        ("default_model", " tiny\r\n", "tiny"),
        ("database_url", "postgres://u:p@h/db\n", "postgresql+psycopg://u:p@h/db"),
        (
            "allowed_origins",
            " https://a.example , https://b.example,\r",
            {"https://a.example", "https://b.example"},
        ),
    ],
)
def test_common_spellings(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    assert getattr(settings(monkeypatch, **{name: text}), name) == value


def test_api_key_with_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    key = settings(monkeypatch, api_key="secret\r\n").api_key
    assert key is not None
    assert key.get_secret_value() == "secret"


def test_service_link_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, port="tcp://10.96.12.34:8000").port == 8000
    assert len(environment_warnings()) == 1


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("port", "many", "WEIGHIN_PORT 'many': should be a valid integer"),
        ("port", "8000/tcp", "WEIGHIN_PORT '8000/tcp': should be a valid integer"),
        ("port", "70000", "WEIGHIN_PORT '70000': should be less than or equal to 65535"),
        ("port", '"8000"', "WEIGHIN_PORT '\"8000\"': is in quotes (allowed: without them"),
        ("data_dir", "'/data'", "WEIGHIN_DATA_DIR ''/data'': is in quotes"),
        ("threads", '""', "WEIGHIN_THREADS '\"\"': is in quotes"),
        ("host", "0.0.0.0:8000", "WEIGHIN_HOST '0.0.0.0:8000': should be a host (allowed: "),
        ("host", "http://0.0.0.0", "WEIGHIN_HOST 'http://0.0.0.0': should be a host"),
        ("host", "*", "WEIGHIN_HOST '*': should be a host (allowed: a name or an address; 0.0.0.0 or ::"),
        ("deadline_s", "10s", "WEIGHIN_DEADLINE_S '10s': should be a valid number"),
        ("deadline_s", "inf", "WEIGHIN_DEADLINE_S 'inf': should be a finite number"),
        ("shutdown_grace_s", "inf", "WEIGHIN_SHUTDOWN_GRACE_S 'inf': should be a finite number"),
        ("max_body_bytes", "20MB", "WEIGHIN_MAX_BODY_BYTES '20MB': should be a valid integer"),
        ("log_level", "loud", "WEIGHIN_LOG_LEVEL 'loud': should be 'debug', 'info', 'warning' or 'error'"),
        ("log_requests", "maybe", "WEIGHIN_LOG_REQUESTS 'maybe': should be a valid boolean"),
        ("data_dir", "~nobody-here/x", "WEIGHIN_DATA_DIR '~nobody-here/x': has no home directory"),
        (
            "database_url",
            "mysql://u:secret@h/db",
            "WEIGHIN_DATABASE_URL 'mysql://***@h/db': 'mysql://' is not",
        ),
        (
            "allowed_origins",
            "https://a.example, https://u:secret@b.example",
            "WEIGHIN_ALLOWED_ORIGINS 'https://a.example, https://***@b.example': 'https://***@b.example' is",
        ),
        (
            "allowed_origins",
            "https://a.example/?key=secret",
            "WEIGHIN_ALLOWED_ORIGINS 'https://a.example/***'",
        ),
        ("allowed_origins", "u:secret@a.example", "WEIGHIN_ALLOWED_ORIGINS '***': '***' is not an origin"),
        ("database_url", "tcp://u:secret@h:5432", "WEIGHIN_DATABASE_URL 'tcp://***@h:5432': 'tcp://' is not"),
        ("data_dir", "s3://bucket/x", "WEIGHIN_DATA_DIR 's3://bucket/x': is a URL (allowed: the path of"),
        ("host", "http://u:secret@0.0.0.0", "WEIGHIN_HOST 'http://***@0.0.0.0': should be a host"),
        ("root_path", "https://u:secret@h/x", "WEIGHIN_ROOT_PATH 'https://***@h/x': 'https://***@h/x' is no"),
        ("trusted_proxies", "u:secret@h, ::1", "WEIGHIN_TRUSTED_PROXIES '***, ::1': '***' is not an address"),
        ("data_dir", "s3://u:secret@bucket", "WEIGHIN_DATA_DIR 's3://***@bucket': is a URL"),
        ("api_key", "'secret'", "WEIGHIN_API_KEY (not shown): is in quotes"),
    ],
)
def test_message_of_an_invalid_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, line: str
) -> None:
    [problem] = problems(monkeypatch, **{name: text})
    assert problem.startswith(line)
    assert "secret" not in problem


def test_all_invalid_settings_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, {"port": 70000}, threads="0", database_url="nowhere", log_level="x")
    assert [line.split()[0] for line in found] == [
        *("--port", "WEIGHIN_DATABASE_URL", "WEIGHIN_THREADS", "WEIGHIN_LOG_LEVEL")
    ]


def test_limit_of_malloc_arenas_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert not malloc_arenas_are_limited()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0:glibc.malloc.arena_max=3")
    assert malloc_arenas_are_limited()
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    assert malloc_arenas_are_limited()
