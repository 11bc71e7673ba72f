"""Lists of routes that are maintained by hand match the routes."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.middleware.admission import _IMAGE_ROUTES
from service.app import OWN_PATHS


@pytest.mark.slow
def test_image_routes_are_refused_early(openapi: dict[str, Any]) -> None:
    paths = openapi["paths"]
    with_image = {
        f"{method.upper()} {path.replace('{id}', 'x')}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "image/*" in operation.get("requestBody", {}).get("content", {})
    }
    assert len(with_image) == 6
    assert all(_IMAGE_ROUTES.fullmatch(route) for route in with_image)
    infer = [f"POST {path.format(name='x', version='y')}" for path in paths if path.endswith("/infer")]
    assert len(infer) == 2
    assert all(_IMAGE_ROUTES.fullmatch(route) for route in infer)
    assert not _IMAGE_ROUTES.fullmatch("POST /gallery/images")  # its images wait for room


def test_own_paths_are_complete(openapi: dict[str, Any]) -> None:
    """WEIGHIN_ROOT_PATH is checked against OWN_PATHS, the first segments of all paths."""
    first = {path.split("/")[1] for path in openapi["paths"]}
    assert first - {""} <= OWN_PATHS
