"""GET /docs: Swagger UI with local files, so that it works offline."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.api.body.request import ignores_unknown_parameters, root_of
from service.api.routers import new_router

router = new_router()

_FILES = "/static-offline-docs"  # where FastAPIOffline mounts its files


@router.get("/docs", include_in_schema=False, response_class=HTMLResponse)
@ignores_unknown_parameters
async def docs(request: Request) -> Response:
    """Return the page of FastAPIOffline, but accept unknown query parameters."""
    app: FastAPI = request.app
    root = root_of(request)
    return get_swagger_ui_html(
        openapi_url=f"{root}{app.openapi_url}",
        title=f"{app.title} - API",
        swagger_js_url=f"{root}{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{root}{_FILES}/favicon.png",
    )
