"""Translation of database and file system errors into StorageUnavailable with messages for clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from service.errors import DatabaseUnreachable, StorageUnavailable

DAMAGED = "the database file is damaged: move it away to start a new one"

_UNREACHABLE = "the database server cannot be reached"

_TOO_OLD = "the database server lacks something: Weigh-in needs pgvector 0.8 or newer"

_BY_MESSAGE = (
    ("full", "the disk is full"),
    ("no space", "the disk is full"),
    ("quota", "the disk quota is used up"),
    ("readonly", "the data directory is read-only"),
    ("read-only", "the data directory is read-only"),
    ("permission", "the data directory may not be written"),
    ("unable to open", "the database cannot be opened: the data directory is missing or may not be written"),
    ("no such file", "the data directory is missing"),
    ("not a database", DAMAGED),
    ("malformed", DAMAGED),
    ("no such table", DAMAGED),
    ("locked", "another program holds the database"),
    ("i/o error", "the disk reports errors"),
)

# Messages by prefix of PostgreSQL's SQLSTATE, longer prefixes first.
_TRANSIENT = (
    ("08", _UNREACHABLE),
    ("57P", "the database server is starting or stopping"),
    ("53300", "the database server takes no more connections"),
    ("40", "the database server was busy with a conflicting change: try again"),
    ("55P03", "the database server was busy with a conflicting change: try again"),
    ("57014", "the database server took too long"),
)
_WHILE_CONNECTING = (
    ("authentication failed", "the database server refuses the user or the password"),
    ("does not exist", "the database server has no database or no user of that name"),
    ("too many clients", "the database server takes no more connections"),
    ("starting up", "the database server is starting or stopping"),
    ("shutting down", "the database server is starting or stopping"),
)
_PERMANENT = (
    ("53100", "the database server's disk is full"),
    ("53", "the database server is out of resources"),
    ("25006", "the database server is read-only"),
    ("42501", "the database server's user may not do that"),
    ("0A000", _TOO_OLD),
    ("58P01", _TOO_OLD),
    ("42704", _TOO_OLD),
    ("42P01", "the database lacks a table: was it changed by another program?"),
    ("XX001", "the database server reports damaged data"),
    ("XX002", "the database server reports damaged data"),
)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raise StorageUnavailable for database and file system errors; DatabaseUnreachable if a retry may help.

    The messages are safe for clients.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise _translate(error) from error


def _translate(error: SQLAlchemyError | OSError) -> StorageUnavailable:
    if isinstance(error, NoConnectionFree):
        return DatabaseUnreachable("all connections to the database are in use")
    if isinstance(error, DBAPIError) and hasattr(error.orig, "sqlstate"):
        return _translate_code(error, getattr(error.orig, "sqlstate", None))
    message = str(error.orig if isinstance(error, DBAPIError) else error).lower()
    if isinstance(error, OSError):
        message = (error.strerror or "").lower()
    for part, explanation in _BY_MESSAGE:
        if part in message:
            return StorageUnavailable(explanation)
    return StorageUnavailable("the database cannot be used, see the log")


def _translate_code(error: DBAPIError, code: str | None) -> StorageUnavailable:
    if code is None:  # an error of the driver; for a refused connection it has the message without the code
        if type(error.orig).__name__ == "OperationalError" or error.connection_invalidated:
            message = str(error.orig)
            refusals = (explanation for part, explanation in _WHILE_CONNECTING if part in message)
            return DatabaseUnreachable(next(refusals, _UNREACHABLE))
        return StorageUnavailable("the database cannot be used, see the log")
    for kind, explanations in ((DatabaseUnreachable, _TRANSIENT), (StorageUnavailable, _PERMANENT)):
        for start, explanation in explanations:
            if code.startswith(start):
                return kind(explanation)
    return StorageUnavailable(f"the database refuses that (PostgreSQL's code {code}), see the log")
