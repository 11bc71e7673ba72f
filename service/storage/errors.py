"""Translation of database and file system errors into StorageUnavailable with messages for clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from service.errors import DatabaseUnreachable, StorageUnavailable

DAMAGED = "database file: damaged (move it away to start a new one)"

_UNREACHABLE = "database server: cannot be reached"

_TOO_OLD = "database server: too old (needed: pgvector 0.8 or newer)"

_BY_MESSAGE = (
    ("full", "disk: full"),
    ("no space", "disk: full"),
    ("quota", "disk: quota exceeded"),
    ("readonly", "data directory: read-only"),
    ("read-only", "data directory: read-only"),
    ("permission", "data directory: permission denied"),
    ("unable to open", "database: cannot be opened (data directory is missing or cannot be written)"),
    ("no such file", "data directory: missing"),
    ("not a database", DAMAGED),
    ("malformed", DAMAGED),
    ("no such table", DAMAGED),
    ("locked", "database: locked by another program"),
    ("i/o error", "disk: I/O error"),
)

# Messages by prefix of PostgreSQL's SQLSTATE, longer prefixes first.
_TRANSIENT = (
    ("08", _UNREACHABLE),
    ("57P", "database server: starting or stopping"),
    ("53300", "database server: too many connections"),
    ("40", "database server: conflicting change (try again)"),
    ("55P03", "database server: conflicting change (try again)"),
    ("57014", "database server: timeout"),
)
_WHILE_CONNECTING = (
    ("authentication failed", "database server: wrong user or password"),
    ("does not exist", "database server: unknown database or user"),
    ("too many clients", "database server: too many connections"),
    ("starting up", "database server: starting or stopping"),
    ("shutting down", "database server: starting or stopping"),
)
_PERMANENT = (
    ("53100", "database server: disk full"),
    ("53", "database server: out of resources"),
    ("25006", "database server: read-only"),
    ("42501", "database server: permission denied"),
    ("0A000", _TOO_OLD),
    ("58P01", _TOO_OLD),
    ("42704", _TOO_OLD),
    ("42P01", "database: table missing (changed by another program?)"),
    ("XX001", "database server: damaged data"),
    ("XX002", "database server: damaged data"),
)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of the database and the file system in the context into StorageUnavailable.

    Temporary errors of the database become DatabaseUnreachable. The messages are safe for clients.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise _translate(error) from error


def _translate(error: SQLAlchemyError | OSError) -> StorageUnavailable:
    if isinstance(error, NoConnectionFree):
        return DatabaseUnreachable("database: all connections are in use")
    if isinstance(error, DBAPIError) and hasattr(error.orig, "sqlstate"):
        return _translate_code(error, getattr(error.orig, "sqlstate", None))
    message = str(error.orig if isinstance(error, DBAPIError) else error).lower()
    if isinstance(error, OSError):
        message = (error.strerror or "").lower()
    for part, explanation in _BY_MESSAGE:
        if part in message:
            return StorageUnavailable(explanation)
    return StorageUnavailable("database: unexpected error (see the log)")


def _translate_code(error: DBAPIError, code: str | None) -> StorageUnavailable:
    if code is None:  # a driver's own error, or a refused connection, whose error has a message only
        if type(error.orig).__name__ == "OperationalError" or error.connection_invalidated:
            message = str(error.orig)
            refusals = (explanation for part, explanation in _WHILE_CONNECTING if part in message)
            return DatabaseUnreachable(next(refusals, _UNREACHABLE))
        return StorageUnavailable("database: unexpected error (see the log)")
    for kind, explanations in ((DatabaseUnreachable, _TRANSIENT), (StorageUnavailable, _PERMANENT)):
        for start, explanation in explanations:
            if code.startswith(start):
                return kind(explanation)
    return StorageUnavailable(f"database server: error {code} of PostgreSQL (see the log)")
