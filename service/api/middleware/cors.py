"""CORS: allow pages of other origins to use the API and to read its response headers."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from service.api.middleware.context import identifying_headers, new_request_id
from service.api.problems import problem_of
from service.errors import CrossSiteRequest

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")

REQUEST_HEADERS = (
    *("Accept", "Authorization", "Content-Type", "If-None-Match", "Inference-Header-Content-Length"),
    "X-Request-ID",
)
"""Request headers that the API reads."""

RESPONSE_HEADERS = (
    "Content-Disposition",
    "ETag",
    "Inference-Header-Content-Length",
    "Location",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Request-ID",
)
"""Response headers that pages may read, beside those that are always readable."""


class Cors(CORSMiddleware):
    """CORS middleware around all code that responds, so that pages can read errors too.

    If `allowed_origins` contains `*`, every origin is allowed. CORS credentials are never allowed, so that
    browsers send no cookies with requests that pages of other origins make. The API uses no cookies. A page
    that knows the API key can still send it, in the header field Authorization.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=sorted(allowed_origins),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request. If it is refused, return a problem document that says why."""
        request_id = new_request_id()
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            requested = ", ".join(
                filter(
                    None,
                    (
                        request_headers["origin"][:100],
                        request_headers["access-control-request-method"][:20],
                        request_headers.get("access-control-request-headers", "")[:200],
                    ),
                )
            )
            allowed = ", ".join((*METHODS, *REQUEST_HEADERS))
            reason = bytes(response.body).decode().lower().replace("cors", "CORS")
            detail = f"{reason}: {requested} (allowed: the origins of WEIGHIN_ALLOWED_ORIGINS, {allowed})"
            refusal = problem_of(request_id, CrossSiteRequest(detail))
            refusal.headers["Vary"] = response.headers["Vary"]
            response = refusal
        response.raw_headers.extend(identifying_headers(request_id))
        return response
