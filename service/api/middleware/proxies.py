"""Reverse proxies: URL prefix of the service, and X-Forwarded fields of trusted proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware.context import identifying_headers, new_request_id
from service.settings import normal_root_path
from service.text.origins import ANY, parse_host

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix"})


class ReverseProxy:
    """Pure ASGI middleware around everything else.

    `root_path` is the URL prefix. Requests arrive with the prefix, or without it if the proxy strips it.

    `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` are used if the peer is in `trusted` (addresses,
    networks, or `*`) and they are well-formed; otherwise, they are ignored. Several proxies may have appended
    to a field: the client is then the last untrusted address in `X-Forwarded-For`, and the first value of
    each other field is used. A configured `root_path` takes precedence over `X-Forwarded-Prefix`.
    """

    def __init__(self, app: ASGIApp, *, root_path: str, trusted: Collection[str]) -> None:
        self._app = app
        self._root_path = root_path
        self._any = ANY in trusted
        self._trusted: list[_Network] = [ipaddress.ip_network(text) for text in trusted if text != ANY]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = dict(scope)
        prefix = self._root_path
        client = scope.get("client")
        if client is not None and self._trusts(client[0]):
            prefix = self._apply(scope) or prefix
        if prefix:
            path: str = scope["path"]
            if path == prefix and scope["method"] in ("GET", "HEAD"):
                await _to_directory(prefix, scope["query_string"], send)
                return
            if path != "*" and not path.startswith(f"{prefix}/"):
                scope["path"] = prefix + path
            scope["root_path"] = prefix
        await self._app(scope, receive, send)

    def _trusts(self, host: str) -> bool:
        if self._any:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def _apply(self, scope: Scope) -> str:
        """Apply the X-Forwarded fields to `scope`, and return the URL prefix that they name.

        The result is empty if they name no valid prefix, or if `root_path` is configured.
        """
        fields: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in _FORWARDED:
                text = value.decode("latin-1")
                fields[name] = f"{fields[name]},{text}" if name in fields else text
        if not fields:
            return ""
        addresses = fields.pop(b"x-forwarded-for", "")
        if addresses:
            self._set_client(scope, addresses)
        first = {name: text.partition(",")[0].strip() for name, text in fields.items()}
        scheme = first.get(b"x-forwarded-proto", "").lower()
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
            scope.setdefault("state", {})["forwarded_scheme"] = scheme  # shared with the connection
        host = first.get(b"x-forwarded-host", "")
        if parse_host(host) is not None:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [*others, (b"host", host.encode("latin-1"))]
        if self._root_path:
            return ""
        try:
            return normal_root_path(first.get(b"x-forwarded-prefix", ""))
        except ValueError:
            return ""

    def _set_client(self, scope: Scope, addresses: str) -> None:
        for text in reversed(addresses.split(",")):
            parsed = parse_host(text.strip()) or (text.strip(), None)
            host = parsed[0].strip("[]")
            try:
                ipaddress.ip_address(host)
            except ValueError:
                return
            scope["client"] = (host, parsed[1] or 0)
            if not self._trusts(host) or self._any:
                return


async def _to_directory(prefix: str, query: bytes, send: Send) -> None:
    """Redirect to the prefix with a trailing slash, because URLs in the page are relative."""
    location = f"{prefix}/".encode() + (b"?" + query if query else b"")
    headers = [(b"location", location), (b"content-length", b"0")]
    headers += identifying_headers(new_request_id())
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
