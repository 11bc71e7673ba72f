"""Assertion about error responses."""

from __future__ import annotations

from typing import Any

import httpx


def assert_problem(response: httpx.Response, status: int, slug: str, *words: str) -> dict[str, Any]:
    """Assert that `response` is an RFC 9457 problem document, and return it.

    It must have this status and type (`slug`), `words` in its detail, and nothing internal.
    """
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["type"]) == (status, slug), body
    assert response.headers["content-type"] == "application/problem+json"
    extension = {"models"} if slug == "unknown-model" else set()
    assert set(body) == {"type", "title", "status", "detail", "request_id"} | extension
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    for word in words:
        assert word in body["detail"]
    for internal in ("Traceback", "/site-packages", ".py", "service.", "0x", "/tmp", "/home"):
        assert internal not in response.text
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
    return body
