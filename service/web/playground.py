"""GET /: the playground, where one picture is seen by every comparable model side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from service.api.answers import root_of
from service.api.body.parameters import ignores_unknown_parameters
from service.errors import WeighinError
from service.inference.compare import MAX_REPEAT, MIN_REPEAT_FOR_FASTEST
from service.inference.registry import Registry
from service.web.site import Site, explained

RUNS = (1, MIN_REPEAT_FOR_FASTEST, 20, MAX_REPEAT)
"""How many measured runs of each model can be chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaygroundPage:
    """Everything that `playground.html` refers to, and nothing else (a test compares the two)."""

    models: Sequence[str] = field(metadata=explained("Names of the models that are compared"))
    baseline: str = field(metadata=explained("The model that speed-up refers to until another is chosen"))
    problem: str = field(metadata=explained("Why nothing can be compared; empty when something can"))
    runs: Sequence[int] = field(metadata=explained("The numbers of measured runs that can be chosen"))
    default_runs: int = field(metadata=explained("The one that is chosen at first"))


def playground_router(site: Site, registry: Registry) -> APIRouter:
    """The page. What it shows it asks the API for, in the browser."""
    router = APIRouter(tags=["pages"])

    @router.get("/", summary="One picture, every model, as a page", response_class=HTMLResponse)
    @ignores_unknown_parameters
    async def playground(request: Request) -> Response:
        """Drop, paste, choose or take a picture; every model that shares the default's labels sees it."""
        problem = ""
        models: tuple[str, ...] = ()
        try:
            models = tuple(model.name for model in registry.comparable())
        except WeighinError as error:
            problem = error.detail
        page = PlaygroundPage(
            models=models,
            baseline=registry.default_model,
            problem=problem,
            runs=RUNS,
            default_runs=MIN_REPEAT_FOR_FASTEST,
        )
        return site.page("playground.html", page, here="/", root=root_of(request))

    return router
