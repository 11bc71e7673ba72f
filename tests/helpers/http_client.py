"""HTTP clients of services on this machine."""

from __future__ import annotations

import ssl

import httpx

from tests.helpers.until import until

_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""An empty trust store: httpx would load certificate authorities for every client, though none uses TLS."""


def http_client(url: httpx.URL | str) -> httpx.Client:
    """Return a client of the service at `url` that ignores proxy settings."""
    return httpx.Client(base_url=url, timeout=30, trust_env=False, verify=_NO_CERTIFICATES)


def wait_until_loaded(client: httpx.Client) -> None:
    """Wait until every model of the service is loaded or known to be broken."""
    until(lambda: client.get("/readyz").json()["status"] != "loading", "the models are loaded")
