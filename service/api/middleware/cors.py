"""CORS: which other origins' pages may use the API, and what of the responses they may read."""

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

REQUEST_HEADERS = ("Accept", "Authorization", "Content-Type", "If-None-Match", "X-Request-ID")
"""What the API reads of a request."""

RESPONSE_HEADERS = (
    "Content-Disposition",
    "ETag",
    "Location",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Request-ID",
)
"""What the API says in the header of a response, beside what every page may read."""


class Cors(CORSMiddleware):
    """Around all that answers, so that errors can be read too. `*` allows every origin, without credentials:
    browsers then send no cookies, of which there are none, but pages may send the key themselves."""

    def __init__(self, app: ASGIApp, allowed_origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=sorted(allowed_origins),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Allow, or say in a problem document what is not allowed."""
        request_id = new_request_id()
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            asked = ", ".join(
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
            detail = (
                f"{reason}: asked for {asked} (allowed: the origins of WEIGHIN_ALLOWED_ORIGINS, {allowed})"
            )
            refusal = problem_of(request_id, CrossSiteRequest(detail))
            refusal.headers["Vary"] = response.headers["Vary"]
            response = refusal
        response.raw_headers.extend(identifying_headers(request_id))
        return response
