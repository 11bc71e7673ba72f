"""CORS: preflights, readable responses and errors."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from tests.helpers.problems import assert_problem

PAGE = "https://app.example.org"

Serve = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def guarded(serve_for_module: Serve) -> httpx.Client:
    """Return a client of a service that allows PAGE and needs a key."""
    return serve_for_module(
        allowed_origins=frozenset({PAGE}), api_key=SecretStr("secret"), max_body_bytes=100_000
    )


def preflight(
    client: httpx.Client, headers: str, *, origin: str = PAGE, method: str = "PUT"
) -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return client.options("/gallery/images/a", headers={"Origin": origin} | asked)


@pytest.mark.parametrize(
    "headers",
    ["authorization", "Authorization,Content-Type", "authorization, x-request-id", "if-none-match", "accept"],
)
def test_allowed_preflights(guarded: httpx.Client, headers: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        response = preflight(guarded, headers, method=method)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == PAGE
        allowed = response.headers["access-control-allow-headers"].lower()
        assert all(header.strip().lower() in allowed for header in headers.split(","))
        assert "Origin" in response.headers["vary"]
        assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"origin": "https://evil.example"}, "origin"),
        ({"origin": "null"}, "origin"),
        ({"method": "PATCH"}, "method"),
        ({"headers": "x-other"}, "headers"),
    ],
)
def test_refused_preflights(guarded: httpx.Client, changed: dict[str, str], word: str) -> None:
    response = preflight(guarded, changed.pop("headers", "authorization"), **changed)
    assert_problem(response, 403, "cross-site-request", word, "Authorization")


def test_preflight_without_allowed_origins(client: httpx.Client) -> None:
    response = preflight(client, "authorization")
    assert_problem(response, 405, "method-not-allowed")
    assert "access-control-allow-origin" not in response.headers


def test_responses_and_errors_of_allowed_origins(guarded: httpx.Client, png: bytes) -> None:
    ours = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    for response, status in (
        (guarded.post("/classify", content=png, headers=ours), 200),
        (guarded.post("/classify", content=b"text", headers=ours), 415),
        (guarded.post("/classify?top_k=0", content=png, headers=ours), 422),
        (guarded.post("/classify", content=bytes(200_000), headers=ours), 413),
        (guarded.put("/gallery/images/a", content=png, headers=ours), 401),
        (guarded.get("/nowhere", headers=ours), 404),
        (guarded.patch("/models", headers=ours), 405),
    ):
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in response.headers
        exposed = response.headers["access-control-expose-headers"].lower()
        assert {"server-timing", "x-request-id", "retry-after", "etag", "location"} <= set(
            exposed.split(", ")
        )
        assert "Origin" in response.headers["vary"]


def test_vary_header(guarded: httpx.Client) -> None:
    assert "Origin" in guarded.get("/models").headers["vary"]
    other = guarded.get("/models", headers={"Origin": "https://evil.example"})
    assert "Origin" in other.headers["vary"]
    assert "access-control-allow-origin" not in other.headers


def test_other_origins(guarded: httpx.Client, png: bytes) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://app.example.org",
        "https://app.example.org.evil.example",
    ):
        response = guarded.post("/classify", content=png, headers={"Origin": origin})
        assert_problem(response, 403, "cross-site-request")


@pytest.mark.slow
def test_wildcard_origin(serve: Serve, png: bytes) -> None:
    client = serve(allowed_origins=frozenset({"*"}))
    for origin in (PAGE, "http://10.0.0.7:3000", "null"):
        response = client.post("/classify", content=png, headers={"Origin": origin})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in response.headers
        assert preflight(client, "authorization", origin=origin).status_code == 200
