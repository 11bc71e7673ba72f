"""Web origins (RFC 6454): scheme, host and port, compared with default ports and in any case."""

from __future__ import annotations

import re
from dataclasses import dataclass

ANY = "*"
"""Stands for every origin in a list of them."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.+)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin; `port` is None where it is the scheme's default."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")


def parse_origin(text: str) -> Origin | None:
    """The origin that `text` names, as browsers and people write it; None for `null` and what is none.

    Letter case, a default port, a dot behind the host and one slash at the end make no difference.
    """
    match = _ORIGIN.fullmatch(text.removesuffix("/"))
    return None if match is None else _origin(match[1].lower(), match[2])


def is_own(origin: Origin, host: str, scheme: str | None = None) -> bool:
    """Whether a page of `origin` is this service's own, by the header `Host` of its request.

    `scheme` is None where it is not known: behind a proxy that ends TLS, the request that arrives is
    plain HTTP. A host without a port then stands for the default port of the origin's own scheme.
    """
    return (scheme is None or scheme == origin.scheme) and _origin(origin.scheme, host) == origin


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Host and port, as in the header `Host`; None for what is none."""
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
