"""Unknown and repeated query parameters."""

from __future__ import annotations

import httpx
import pytest
from fastapi import Depends, Request, Response

from service.api.body.image import ImageRoute
from service.api.body.request import MAX_KEPT
from service.api.routers import key_needed, new_router
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


def test_parameters_are_those_of_each_request(client: httpx.Client, png: bytes) -> None:
    """Valid parameters are kept per query and fields; they must never be those of another request."""

    def ids(query: str, fields: dict[str, str] | None = None) -> int:
        if fields is None:
            response = client.post(f"/classify{query}", content=png)
        else:
            response = client.post(f"/classify{query}", files={"image": png}, data=fields)
        return len(response.json()["predictions"]) if response.status_code == 200 else response.status_code

    for _ in range(2):
        assert [ids(f"?top_k={k}") for k in (1, 2, 3)] == [1, 2, 3]
        assert [ids("", {"top_k": str(k)}) for k in (3, 1, 2)] == [3, 1, 2]
        assert [ids("?top_k=2", {"top_k": k}) for k in ("2", "3", "")] == [2, 422, 2]
        assert [ids(query) for query in ("?top_k=x", "?top_k=0", "?top_k=2&top_k=2", "?topk=1")] == [422] * 4
        assert [ids("", {"top_k": k}) for k in ("x", "0")] == [422] * 2


@pytest.mark.slow
def test_many_different_queries_are_answered(client: httpx.Client, png: bytes) -> None:
    for number in range(MAX_KEPT + 5):
        response = client.post(f"/classify?top_k=1&model={'x' * number}")
        assert response.status_code == 404 if number else 422
    assert client.post("/classify?top_k=1", content=png).status_code == 200


def test_a_route_with_an_image_has_no_dependencies() -> None:
    """They would not be solved."""
    router = new_router(route_class=ImageRoute)
    with pytest.raises(TypeError, match="/guarded: allowed are parameters of the query"):
        router.post("/guarded", dependencies=[Depends(key_needed)])(_endpoint)


async def _endpoint(request: Request) -> Response:
    raise AssertionError(request)
