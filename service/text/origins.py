"""Web origins (RFC 6454): parse and compare scheme, host and port."""

from __future__ import annotations

import re
from dataclasses import dataclass

ANY = "*"
"""Wildcard in a list of origins, which allows every origin."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.+)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Normalized origin: scheme and host in lower case; `port` is None if it is the scheme's default."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")


def parse_origin(text: str) -> Origin | None:
    """Return the origin in `text`, or None if it is `null` or not an origin.

    Ignores letter case, a default port, a dot after the host and one trailing slash.
    """
    match = _ORIGIN.fullmatch(text.removesuffix("/"))
    return None if match is None else _origin(match[1].lower(), match[2])


def is_own(origin: Origin, host: str, scheme: str | None = None) -> bool:
    """Return whether `origin` is the service's own origin (same-origin check).

    `host`: the request's `Host` header; if it has no port, the default port of the origin's scheme is
    assumed. `scheme`: None if it is unknown, which is the case behind a proxy that terminates TLS and passes
    requests on as plain HTTP.
    """
    return (scheme is None or scheme == origin.scheme) and _origin(origin.scheme, host) == origin


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return host and port of a `Host` header, or None if it is invalid."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    port = int(match[2]) if match[2] else None
    host = match[1].lower().removesuffix(".")
    return (host, port) if host and (port is None or port <= 65535) else None


def _origin(scheme: str, authority: str) -> Origin | None:
    parsed = parse_host(authority)
    if parsed is None:
        return None
    host, port = parsed
    return Origin(scheme, host, None if port == _DEFAULT_PORTS.get(scheme) else port)
