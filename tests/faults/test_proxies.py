"""Behind nginx and haproxy: no request hides in a body."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.faults.proxies import Address, haproxy, nginx
from tests.service.process import service_process

pytestmark = pytest.mark.fault

PROXIES: dict[str, Callable[[Path, Address], AbstractContextManager[Address]]] = {
    "nginx": lambda folder, upstream: nginx(folder, upstream, "location / { proxy_pass http://service; }"),
    "haproxy": haproxy,
}

HIDDEN = b"DELETE /gallery/images/kept HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def service(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the service itself."""
    with (
        service_process(tiny_models_dir, tmp_path_factory.mktemp("data")) as process,
        process.client() as client,
    ):
        yield client


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, service: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    """Where the proxy listens."""
    upstream = (service.base_url.host, service.base_url.port or 80)
    with PROXIES[request.param](tmp_path_factory.mktemp(request.param), upstream) as address:
        yield address


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
START = bytes(range(128, 192))
BODY = START + HIDDEN
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CODED = b"Transfer-Encoding: chunked\r\n"

SMUGGLED = {
    "upgrade": (UPGRADE + LENGTH, BODY),
    "upgrade in chunks": (UPGRADE + CODED, chunked(START, HIDDEN)),
    "websocket": (WEBSOCKET + LENGTH, BODY),
    "plain": (LENGTH, BODY),
    "expect": (b"Expect: 100-continue\r\n" + LENGTH, BODY),
    "length beside chunked": (b"Content-Length: 5\r\n" + CODED, b"0\r\n\r\n" + HIDDEN),
    "chunked beside length": (LENGTH + CODED, b"0\r\n\r\n" + HIDDEN),
    "blank before the colon": (b"Transfer-Encoding : chunked\r\n" + LENGTH, BODY),
    "identity": (b"Transfer-Encoding: identity\r\n" + LENGTH, BODY),
    "gzip, chunked": (b"Transfer-Encoding: gzip, chunked\r\n", chunked(START, HIDDEN)),
    "folded": (b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH, BODY),
    "chunk extension": (CODED, b"5;x=\r\nhello\r\n0\r\n\r\n"),
    "chunk size 0x5": (CODED, b"0x5\r\nhello\r\n0\r\n\r\n" + HIDDEN),
    "LF in chunks": (CODED, b"%x\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"),
    "trailer": (CODED, b"0\r\nContent-Length: 5\r\n\r\n"),
}
"""Fields and body of a POST, in which an HTTP server might see the request HIDDEN."""


@pytest.mark.parametrize("path", [b"/classify", b"/nowhere"])
@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_hidden_in_a_body_is_not_run(
    service: httpx.Client, proxy: Address, png: bytes, name: str, path: bytes
) -> None:
    fields, body = SMUGGLED[name]
    service.put("/gallery/images/kept", content=png).raise_for_status()
    with socket.create_connection(proxy, timeout=20) as connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start, hidden, end = body.partition(HIDDEN)
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + start)
        for _ in range(5):
            service.get("/metrics")  # as long as that takes the service has the start alone
        connection.sendall(hidden + end)
        received = connection.recv(65536)
        connection.settimeout(0.2)
        while piece := connection.recv(65536):
            received += piece
        assert b"HTTP/1.1 204" not in received
    assert service.get("/gallery/images/kept").status_code == 200
    with httpx.Client(base_url="http://{}:{}".format(*proxy), timeout=20, trust_env=False) as client:
        for _ in range(5):  # connections to the service that the proxy keeps give each client its own answer
            assert client.get("/models/tiny").json()["name"] == "tiny"
            assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("fields", [UPGRADE, WEBSOCKET])
def test_uploads_that_offer_an_upgrade_are_classified(proxy: Address, png: bytes, fields: bytes) -> None:
    for framing, body in ((b"Content-Length: %d\r\n" % len(png), png), (CODED, chunked(png[:50], png[50:]))):
        head = b"POST /classify HTTP/1.1\r\nHost: a\r\n" + fields + framing + b"\r\n"
        with socket.create_connection(proxy, timeout=20) as connection:
            connection.sendall(head + body)
            received = b""
            while b"timings_ms" not in received and (piece := connection.recv(65536)):
                received += piece
        assert b"HTTP/1.1 200" in received
        assert b'"predictions"' in received


def test_large_uploads_get_their_refusal(proxy: Address) -> None:
    url = "http://{}:{}/classify".format(*proxy)
    for _ in range(3):
        assert httpx.post(url, content=bytes(40_000_000), timeout=30, trust_env=False).status_code == 413
