"""Unknown and repeated query parameters."""

from __future__ import annotations

import httpx
import pytest

from tests.helpers.problems import assert_problem


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/dashboard",
        "/dashboard/benchmarks",
        "/dashboard/figures",
        "/docs",
        "/healthz",
        "/readyz",
        "/metrics",
        "/gallery/images/kept/content",
        "/gallery/images/kept/thumbnail",
        "/static-offline-docs/swagger-ui.css",
    ],
)
def test_routes_that_ignore_unknown_parameters(client: httpx.Client, png: bytes, path: str) -> None:
    client.put("/gallery/images/kept", content=png)
    for query in ("_=1700000000", "utm_source=mail&utm_source=2", "fbclid"):
        assert client.get(f"{path}?{query}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "name", "allowed"),
    [
        ("POST", "/classify", "topk", "model, top_k"),
        ("POST", "/classify", "", "model, top_k"),
        ("POST", "/explain", "accept", "class_id, model, over_image"),
        ("GET", "/gallery/images/kept", "id", "none"),
        ("GET", "/gallery/images/kept/similar", "id", "k, min_score, where"),
        ("PUT", "/gallery/images/kept", "id", "metadata"),
        ("GET", "/models", "name", "none"),
        ("GET", "/models/tiny", "name", "none"),
        ("GET", "/benchmarks/none", "id", "none"),
        ("DELETE", "/gallery/images/kept", "force", "none"),
    ],
)
def test_routes_that_refuse_unknown_parameters(
    client: httpx.Client, png: bytes, method: str, path: str, name: str, allowed: str
) -> None:
    response = client.request(method, f"{path}?{name}=1", content=png if method in ("POST", "PUT") else None)
    assert_problem(
        response, 422, "invalid-parameter", f"unknown query parameter {name!r} (allowed: {allowed})"
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify?top_k=1&top_k=2"),
        ("POST", "/classify?top_k=1&top_k=1"),
        ("GET", "/gallery/images?limit=1&limit=2"),
    ],
)
def test_repeated_parameter(client: httpx.Client, png: bytes, method: str, path: str) -> None:
    response = client.request(method, path, content=png if method == "POST" else None)
    assert_problem(response, 422, "invalid-parameter", "given 2 times")
