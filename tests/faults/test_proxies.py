"""Behind nginx and haproxy: no request smuggling; pages and links under a prefix over TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.faults.proxies import Address, haproxy, needs, nginx
from tests.helpers.process import service_process

pytestmark = pytest.mark.fault

PROXIES: dict[str, Callable[[Path, Address], AbstractContextManager[Address]]] = {
    "nginx": lambda folder, upstream: nginx(folder, upstream, "location / { proxy_pass http://service; }"),
    "haproxy": haproxy,
}

HIDDEN = b"DELETE /gallery/images/kept HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def service(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of the service itself."""
    with (
        service_process(tiny_models_dir, tmp_path_factory.mktemp("data")) as process,
        process.client() as client,
    ):
        yield client


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, service: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    """Return the address of the proxy."""
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
def test_request_smuggling(service: httpx.Client, proxy: Address, png: bytes, name: str, path: bytes) -> None:
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
def test_uploads_with_an_upgrade_field(proxy: Address, png: bytes, fields: bytes) -> None:
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


PREFIXED = """
    location /weighin/ {{
        proxy_pass http://service{strip};
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Prefix /weighin;
    }}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate for localhost, and its key."""
    needs("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.mark.parametrize("known_by", ["setting", "header"])
@pytest.mark.parametrize("strip", ["/", ""])
def test_prefix_over_tls(
    tiny_models_dir: Path,
    tmp_path: Path,
    png: bytes,
    certificate: tuple[Path, Path],
    strip: str,
    known_by: str,
) -> None:
    given = {"root_path": "/weighin"} if known_by == "setting" else {}
    with (
        service_process(tiny_models_dir, tmp_path / "data", trusted_proxies="127.0.0.1", **given) as process,
        process.client() as direct,
        nginx(
            tmp_path / "nginx",
            (direct.base_url.host, direct.base_url.port or 80),
            PREFIXED.format(strip=strip),
            tls=certificate,
        ) as address,
        httpx.Client(
            base_url=f"https://localhost:{address[1]}",
            verify=ssl.create_default_context(cafile=str(certificate[0])),
            trust_env=False,
            timeout=30,
        ) as client,
    ):
        own = str(client.base_url)
        for page in ("/weighin/", "/weighin/dashboard", "/weighin/dashboard/benchmarks", "/weighin/docs"):
            text = client.get(page).raise_for_status().text
            assert page != "/weighin/dashboard" or f"{own}/weighin/classify" in text
            for found in re.findall(r"""(?:src|href|action)=["']([^"'#]+)["']|url: '([^']+)'""", text):
                link = urljoin(f"{own}{page}", found[0] or found[1])
                assert link.startswith(f"{own}/weighin/"), link
                if not link.endswith("/benchmarks"):  # POST is what its form does
                    assert client.get(link).status_code == 200, link
        document = client.get("/weighin/openapi.json").json()
        assert document["servers"] == [{"url": "/weighin"}]
        page_of_its_own = {"Origin": own}
        put = client.put("/weighin/gallery/images/a", content=png, headers=page_of_its_own).raise_for_status()
        assert client.get(put.json()["image_url"]).content == png
        found = client.post("/weighin/retrieve-similar", content=png, headers=page_of_its_own).json()
        assert client.get(found["matches"][0]["image_url"]).content == png
        started = client.post("/weighin/benchmarks", json={"profile": "quick"}, headers=page_of_its_own)
        where = started.raise_for_status().headers["location"]
        assert where.startswith("/weighin/benchmarks/")
        assert client.delete(where, headers=page_of_its_own).status_code in (200, 202, 409)
        for origin in ("https://evil.example", own.replace("https:", "http:"), "null"):
            refused = client.post("/weighin/classify", content=png, headers={"Origin": origin})
            assert refused.status_code == 403
        for path in ("/weighin/classify/", "/weighin/dashboard/"):
            response = client.get(path)
            assert (response.status_code, response.headers.get("location")) == (404, None)
        assert client.get("/weighin").headers.get("location", "").endswith("/weighin/")
