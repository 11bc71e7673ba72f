"""GET /: playground page, which compares models on one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from service.api.body.request import ignores_unknown_parameters, root_of
from service.api.routers import new_router
from service.errors import WeighinError
from service.inference.compare import MAX_REPEAT, MIN_REPEAT_FOR_FASTEST
from service.inference.registry import Registry
from service.web.site import Site, explained

RUNS = (1, MIN_REPEAT_FOR_FASTEST, 20, MAX_REPEAT)
"""Selectable numbers of measured runs per model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaygroundPage:
    """The variables of `playground.html`; a test compares the two."""

    models: Sequence[str] = field(metadata=explained("Names of the models that are compared"))
    baseline: str = field(metadata=explained("Default baseline of the speed-up"))
    assumed: Mapping[str, Sequence[str]] = field(
        metadata=explained("Assumed facts on which predictions depend, by model")
    )
    problem: str = field(metadata=explained("Why comparison is unavailable; empty if it is available"))
    runs: Sequence[int] = field(metadata=explained("Selectable numbers of measured runs per model"))
    default_runs: int = field(metadata=explained("Default number of measured runs"))


def playground_router(site: Site, registry: Registry) -> APIRouter:
    """Build the router. The page calls the API from the browser."""
    router = new_router("pages")

    @router.get("/", summary="Playground page", response_class=HTMLResponse)
    @ignores_unknown_parameters
    async def playground(request: Request) -> Response:
        """Compare all models that share the default model's labels on a dropped, pasted or chosen image."""
        problem = ""
        models: tuple[str, ...] = ()
        assumed: dict[str, Sequence[str]] = {}
        try:
            comparable = registry.comparable()
            models = tuple(model.name for model in comparable)
            assumed = {model.name: model.card.doubtful for model in comparable if model.card.doubtful}
        except WeighinError as error:
            problem = error.detail
        page = PlaygroundPage(
            models=models,
            baseline=registry.default_model,
            assumed=assumed,
            problem=problem,
            runs=RUNS,
            default_runs=MIN_REPEAT_FOR_FASTEST,
        )
        return site.page("playground.html", page, here="/", root=root_of(request))

    return router
