"""Lists of routes that are maintained by hand match the routes."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.middleware.admission import _IMAGE_ROUTES
from service.api.middleware.context import MODEL_PATHS, possible_errors
from service.app import OWN_PATHS

WITHOUT_A_MODEL = {"headers-too-large", "request-timeout", "unauthorized", "gallery-full", "unknown-image"}
"""Errors of routes that run networks, before or without a model."""
OTHERS = {"models", "benchmarks"}
"""Paths that run networks, but answer no predictions whose latency is recorded as that of live requests."""


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


def test_paths_that_run_networks_are_complete(openapi: dict[str, Any]) -> None:
    """The errors of these paths are recorded with the latencies, and their counters exist from the start."""
    documented: dict[str, set[str]] = {}
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            kinds = {
                kind
                for response in operation["responses"].values()
                for content in response.get("content", {}).values()
                for kind in content.get("examples", {})
            }
            documented.setdefault(path.split("/")[1], set()).update(kinds)
    with_model = {kind for model, kind in possible_errors(["tiny"]) if model}
    for segment in MODEL_PATHS:
        assert documented[segment] - with_model <= WITHOUT_A_MODEL, segment
    running = {segment for segment, kinds in documented.items() if "model-unavailable" in kinds}
    assert running - MODEL_PATHS == OTHERS
