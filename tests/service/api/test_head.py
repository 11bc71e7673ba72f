"""HEAD responses, and the allowed methods of a path."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

from service.api.middleware.context import HeadRequests
from tests.helpers.problems import assert_problem
from tests.helpers.wire import ask, responses, serving

VARYING = {"x-request-id", "date", "server-timing"}


def same_header(one: httpx.Response, other: httpx.Response) -> bool:
    return {k: v for k, v in one.headers.items() if k not in VARYING} == {
        k: v for k, v in other.headers.items() if k not in VARYING
    }


@pytest.mark.slow
def test_head_equals_get_without_body(client: httpx.Client, png: bytes) -> None:
    client.put("/gallery/images/kept", content=png)
    style = client.get("/").text.partition('rel="stylesheet" href="')[2].partition('"')[0]
    for path in (
        "/",
        "/dashboard/benchmarks",
        "/docs",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/models",
        "/models/tiny",
        "/v2",
        "/v2/models/tiny",
        "/v2/models/none",
        "/gallery/images",
        "/gallery/images/kept",
        "/gallery/images/kept/content",
        "/gallery/images/kept/thumbnail",
        "/benchmarks",
        "/recommend",
        "/static-offline-docs/swagger-ui.css",
        f"/{style.lstrip('./')}",
        "/nowhere",
        "/models/none",
        "/models?unknown=1",
        "/benchmarks/none/events",
    ):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert same_header(head, get), path


@pytest.mark.parametrize("path", ["/metrics", "/dashboard", "/latency", "/gallery"])
def test_head_of_changing_content(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_request_after_head(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port or 80)
    head = b"HEAD /models HTTP/1.1\r\nHost: a\r\n\r\n"
    got = ask(address, head + head + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 OK") == 3
    assert got.count(b'{"status":"ok"}') == 1
    assert b'"models"' not in got


def test_head_of_a_stream() -> None:
    async def endless() -> Any:
        while True:
            yield b"data: tick\n\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(endless(), media_type="text/event-stream")(scope, receive, send)

    with serving(HeadRequests(app)) as address:
        received = ask(address, b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"\r\n\r\n")
    assert b"tick" not in received


def test_allow_header(client: httpx.Client) -> None:
    for method, path, allowed in (
        ("DELETE", "/recommend", "GET, HEAD"),
        ("DELETE", "/models", "GET, HEAD, POST"),
        ("POST", "/models/tiny", "GET, HEAD, PUT, DELETE"),
        ("GET", "/classify", "POST"),
        ("HEAD", "/classify", "POST"),
        ("PATCH", "/gallery/images", "GET, HEAD, POST"),
        ("POST", "/gallery/images/kept", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/gallery/images/kept", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/benchmarks", "GET, HEAD, POST"),
    ):
        response = client.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)
        if method != "HEAD":
            assert_problem(response, 405, "method-not-allowed", allowed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify/"),
        ("GET", "/dashboard/"),
        ("GET", "/gallery/images/"),
        ("GET", "/docs/"),
        ("GET", "/models/tiny/"),
    ],
)
def test_trailing_slash(client: httpx.Client, method: str, path: str) -> None:
    headers = {"Host": "weighin.example.org", "X-Forwarded-Proto": "https"}
    response = client.request(method, path, headers=headers)
    assert_problem(response, 404, "not-found", f"did you mean {path.rstrip('/')}?")
    assert "location" not in response.headers


def test_no_redirects(client: httpx.Client) -> None:
    for path in (
        "//evil.example",
        "/static",
        "/static/",
        "/static-offline-docs",
        "/static-offline-docs/",
        "/%2e%2e/",
        "/a%00b",
        "/static-offline-docs/%00",
        "/models/%0d%0aLocation:%20x",
    ):
        response = client.get(httpx.URL(client.base_url.join("/")).copy_with(raw_path=path.encode()))
        assert response.status_code in (404, 405), path
        assert "location" not in response.headers


def test_head_with_a_strict_client(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port or 80)
    received = ask(address, b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 404 Not Found", b"")
    assert responses(ask(address, b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
