"""Normalize and redact the URLs of databases and services."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

DATABASE_URLS = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
"""The allowed forms of a database URL, for error messages."""

_SCHEME = re.compile(r"([a-z][a-z0-9]*)(\+[a-z0-9_]+)?://(.*)", re.IGNORECASE | re.DOTALL)
_SQLITE_FILE = re.compile(r"(~|\.{0,2}/|[A-Za-z]:[\\/]).*|[^:=@\s]+\.(db|sqlite3?)")
_HOST = re.compile(r"(\[[^\]@/]*\]|[^:@/,]*)(:\d*)?")
_PLAIN_ADDRESS = re.compile(
    r"(\[[0-9a-f:.]+\]|[a-z0-9._-]*)(?P<port>:[0-9]{0,5})?(?P<path>/[a-z0-9._/~-]*)?", re.IGNORECASE
)
_EXAMPLE = "(example: http://127.0.0.1:8000)"


def database_url(text: str) -> str:
    """Return the SQLAlchemy form of a database URL.

    The schemes `postgres` and `postgresql`, with any driver, become `postgresql+psycopg`. A file path becomes
    an SQLite URL. Raises ValueError if `text` is invalid. Its message names the allowed forms, and repeats
    only the scheme of `text`, because the rest may contain a password.
    """
    match = _SCHEME.fullmatch(text)
    if match is None:
        if _SQLITE_FILE.fullmatch(text) and not text.startswith("//"):
            return f"sqlite:///{_file(text)}"
        raise ValueError(f"not a database URL (allowed: {DATABASE_URLS})")
    scheme, driver, rest = match[1].lower(), (match[2] or "").lower(), match[3]
    if scheme in ("sqlite", "sqlite3"):
        return _sqlite_url(rest)
    if scheme in ("postgres", "postgresql"):
        return _postgresql_url(rest, driver)
    raise ValueError(f"'{scheme}://' is not supported (allowed: {DATABASE_URLS})")


def _sqlite_url(rest: str) -> str:
    if rest and not rest.startswith("/"):
        raise ValueError("SQLite URLs have no host (allowed: sqlite:///FILE)")
    path = rest[1:].partition("?")[0]
    if path in ("", ":memory:") or path.startswith("file:"):
        raise ValueError("in-memory databases are not supported (allowed: sqlite:///FILE)")
    path = rest[1:]
    return f"sqlite:///{_file(path)}" if path.startswith("~") else f"sqlite://{rest}"


def _file(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError("no home directory for '~'") from None


def _postgresql_url(rest: str, driver: str) -> str:
    address, has_query, query = rest.partition("?")
    authority, slash, path = address.partition("/")
    user, at, host = authority.rpartition("@")
    if "@" in user or "@" in path or (at and not slash and "@" in query):
        raise ValueError("unescaped '@', '/' or '?' in user or password (allowed: %40, %2F, %3F)")
    if not _HOST.fullmatch(host):
        raise ValueError(
            "not a single HOST:PORT (allowed: ?host=A:5432&host=B:5432 for several hosts; "
            "%2F and %3F in a password)"
        )
    if driver in ("+asyncpg", "+pg8000") and has_query:
        query = urlencode([_for_libpq(*pair) for pair in parse_qsl(query, keep_blank_values=True)])
    return f"postgresql+psycopg://{authority}{slash}{path}{has_query}{query}"


def _for_libpq(key: str, value: str) -> tuple[str, str]:
    if key != "ssl":
        return key, value
    return "sslmode", {"true": "require", "false": "disable"}.get(value, value)


def redacted(url: str) -> str:
    """Return a URL for messages: scheme, host, port and path, with `***` in place of everything else.

    User, password, query and fragment are always replaced. If the address cannot be split into host, port and
    path with certainty, all of it is replaced, because it may contain an unescaped password.
    """
    match = _SCHEME.fullmatch(url)
    if match is None:
        return url if _SQLITE_FILE.fullmatch(url) and not url.startswith("//") else "***"
    start = f"{match[1]}{match[2] or ''}://"
    scheme, rest = match[1].lower(), match[3]
    address = re.split("[?#;]", rest, maxsplit=1)[0]
    hidden = "***" if len(address) < len(rest) else ""
    if scheme in ("sqlite", "sqlite3"):
        return f"{start}{address if address[:1] in ('', '/') else '***'}{hidden}"
    userinfo, at, place = rest[: len(address)].rpartition("@")
    plain = _PLAIN_ADDRESS.fullmatch(place)
    unescaped = "@" in userinfo + rest[len(address) :] or "/" in userinfo
    bare = plain is not None and not (at or plain["port"] or plain["path"])
    if plain is None or unescaped or (bare and scheme not in ("http", "https")):
        return f"{start}***"
    return f"{start}{'***@' if at else ''}{place}{hidden}"


def service_url(text: str) -> str:
    """Return the base URL of a service, without a trailing slash; the default scheme is `http`.

    Raises ValueError if `text` is not the URL of a service; its message has an example.
    """
    url = text.strip()
    if "://" not in url and not re.match(r"https?[:/]", url, re.IGNORECASE):
        url = f"http://{url}"
    shown = redacted(url) if re.search("[@?#;%=]", url) else text
    invalid = ValueError(f"'{shown[:200]}': not a service URL {_EXAMPLE}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        raise invalid from None
    if not usable or parts.query or parts.fragment or re.search(r"[\s\\]", url):
        raise invalid
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
