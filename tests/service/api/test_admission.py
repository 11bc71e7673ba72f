"""The lists that the edge of the API keeps by hand are those of the routes."""

from __future__ import annotations

import httpx

from service.api.middleware.admission import _IMAGE_ROUTES
from service.app import OWN_PATHS


def test_every_route_with_one_image_is_refused_early(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    with_image = {
        f"{method.upper()} {path.replace('{id}', 'x')}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "image/*" in operation.get("requestBody", {}).get("content", {})
    }
    assert len(with_image) == 5
    assert all(_IMAGE_ROUTES.fullmatch(route) for route in with_image)
    assert not _IMAGE_ROUTES.fullmatch("POST /gallery/images")  # its images wait for room


def test_no_prefix_can_be_a_path_of_the_service(client: httpx.Client) -> None:
    """WEIGHIN_ROOT_PATH is held against the first segments of all paths."""
    first = {path.split("/")[1] for path in client.get("/openapi.json").json()["paths"]}
    assert first - {""} <= OWN_PATHS
