"""Normalization and redaction of the URLs of databases and services."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.text.urls import database_url, redacted, service_url


@pytest.mark.parametrize(
    "scheme",
    [
        *("postgres", "postgresql", "POSTGRESQL", "postgresql+psycopg", "postgresql+psycopg2"),
        *("postgresql+asyncpg", "postgres+psycopg", "postgresql+psycopg_async", "postgresql+pg8000"),
    ],
)
def test_postgresql_with_any_driver(scheme: str) -> None:
    assert database_url(f"{scheme}://u:p@h:5432/db?sslmode=require") == (
        "postgresql+psycopg://u:p@h:5432/db?sslmode=require"
    )


def test_ssl_parameter_of_another_driver() -> None:
    assert database_url("postgresql+asyncpg://h/db?ssl=true").endswith("/db?sslmode=require")
    assert database_url("postgresql+asyncpg://h/db?ssl=verify-full").endswith("/db?sslmode=verify-full")


@pytest.mark.parametrize("url", ["postgresql:///db?host=/run/postgresql", "postgresql://u@[::1]:5432/db"])
def test_postgresql_socket_and_ipv6(url: str) -> None:
    assert database_url(url) == url.replace("postgresql:", "postgresql+psycopg:")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("sqlite:///weighin.db", "sqlite:///weighin.db"),
        ("sqlite:////var/weighin.db", "sqlite:////var/weighin.db"),
        ("sqlite+pysqlite:////var/weighin.db", "sqlite:////var/weighin.db"),
        ("sqlite+aiosqlite:///weighin.db", "sqlite:///weighin.db"),
        ("sqlite3:///weighin.db", "sqlite:///weighin.db"),
        ("/var/lib/weighin.db", "sqlite:////var/lib/weighin.db"),
        ("./state", "sqlite:///state"),
        ("weighin.sqlite3", "sqlite:///weighin.sqlite3"),
        ("~/weighin.db", f"sqlite:///{Path.home()}/weighin.db"),
        ("sqlite:///~/weighin.db", f"sqlite:///{Path.home()}/weighin.db"),
    ],
)
def test_sqlite_file(text: str, url: str) -> None:
    assert database_url(text) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jdbc:postgresql://h/db", "allowed: sqlite:///FILE, postgresql://"),
        ("sqlite:weighin.db", "allowed: sqlite:///FILE"),
        ("sqlite://weighin.db", "allowed: sqlite:///FILE"),
        *((f"sqlite://{rest}", "in-memory databases") for rest in ("", "/", "/:memory:", "/?mode=memory")),
        ("host=h dbname=db password=secret", "allowed: sqlite:///FILE, postgresql://"),
        ("u:secret@h/db", "allowed: sqlite:///FILE, postgresql://"),
        ("mysql+pymysql://u:secret@h/db", "'mysql://' is not supported"),
        ("postgresql://u:secr@et@h/db", "%40"),
        ("postgresql://u:sec/ret@h/db", "%2F"),
        ("postgresql://u:sec?ret@h/db", "%3F"),
        ("postgresql://u:secret/db", "HOST:PORT"),
        ("postgresql://h1:1,h2:2/db", "?host=A:5432&host=B:5432"),
        ("~no-such-user/weighin.db", "no home directory"),
    ],
)
def test_invalid_database_url_lists_allowed_forms(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|home") as caught:
        database_url(text)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value) + redacted(text)


@pytest.mark.parametrize(
    "url",
    [
        *("postgres://u:secret@h/db", "postgres://u:sec@ret@h/db", "mysql://u:sec/ret@h/db", "x://u:secret"),
        *("postgres://u:sec?ret@h/db", "postgresql://h/db?user=u&password=secret", "u:secret@h", "secret"),
        *("postgresql://u:secret/db", "postgresql://u:secret@h:port/db"),
        *("mysql://h/db?password=secret", "mysql://h/db;password=secret", "mysql://h;password=secret"),
        *("mysql://h/db#password=secret", "redis://secret", "postgresql://secret", "redis://:secret@h"),
        *("mysql://u%3Asecret@h/d", "mysql://u%3Asecret%40h/d", "mysql://h1,u:secret@h2/d", "secret://u@h"),
        *("postgresql://h/db?password=a@secret", "postgresql://h1:1,secret:2/db?password=a", "secret@h"),
        *("mongodb+srv://u:sec@ret@h/?x", "mysql://h/u:secret@x/db", "postgresql://u:12#secret@h/db"),
        *("postgresql://u:12?secret@h/db", "postgresql://u:12;secret@h/db", "sqlite://u:secret@h/db"),
        *(
            "//u:secret@h/db",
            "sqlite:///x.db?key=secret",
            "sqlite:///x.db#secret",
            "http://u:secret@h/x",
            "http://h/?key=secret",
        ),
        *(
            "postgresql://u:secret@",
            "postgresql://[secret]/db",
            "postgresql://h:secret",
            "jdbc:x://:secret@h",
        ),
    ],
)
def test_password_is_redacted(url: str) -> None:
    assert not {"secret", "sec", "ret"} & set(re.split("[^a-z]", redacted(url).partition("://")[2]))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:5432/db?sslmode=require", "postgresql://***@h:5432/db***"),
        ("postgresql+psycopg://[::1]:5432/db", "postgresql+psycopg://[::1]:5432/db"),
        ("postgresql:///db?host=/tmp", "postgresql:///db***"),
        ("sqlite:////var/lib/weighin.db", "sqlite:////var/lib/weighin.db"),
        ("https://u@example.org/weighin", "https://***@example.org/weighin"),
        ("http://localhost", "http://localhost"),
        ("mysql://h/db", "mysql://h/db"),
        ("./state/weighin.db", "./state/weighin.db"),
    ],
)
def test_redaction_keeps_the_rest(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("weighin.example", "http://weighin.example"),
        (" http://localhost:8000\n", "http://localhost:8000"),
        ("https://example.org/weighin/", "https://example.org/weighin"),
        ("HTTPS://example.org", "https://example.org"),
    ],
)
def test_service_url(text: str, url: str) -> None:
    assert service_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "ftp://h", "ws://h:8000", "http://", "http:/h", "http//h", "h:port", "http://h:99999"),
        *("http://h/?a=b", "http://h/#a", "a b", "http://[::1", ":8000", "http://h:0", "unix:///run/weighin"),
    ],
)
def test_invalid_service_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a service URL \(example: http://127.0.0.1:8000\)"):
        service_url(text)


@pytest.mark.parametrize("text", ["http://u:secret@h:x", "http://h/?key=secret", "h/#secret", "u:secret@"])
def test_invalid_service_url_hides_password(text: str) -> None:
    with pytest.raises(ValueError, match="not a service URL") as caught:
        service_url(text)
    assert "secret" not in str(caught.value)
