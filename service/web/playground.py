"""GET /: playground page, which compares models on one image, or shows what detectors find in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from fastapi.responses import HTMLResponse

from service.api.body.request import app_part, ignores_unknown_parameters, root_of
from service.api.problems import documented
from service.api.routers import new_router
from service.errors import InvalidParameter, WeighinError
from service.inference.compare import MAX_REPEAT, MIN_REPEAT_FOR_FASTEST
from service.inference.registry import Registry
from service.web.site import Site, explained

router = new_router("pages")

RUNS = (1, MIN_REPEAT_FOR_FASTEST, 20, MAX_REPEAT)
"""Selectable numbers of measured runs per model."""

PlaygroundTask = Literal["classify", "detect"]


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """A detector that can be chosen.

    `min_score` and `max_detections` are from its card. `assumed`: the assumed facts of its card on which
    detections depend.
    """

    name: str
    min_score: float
    max_detections: int
    chosen: bool
    assumed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaygroundPage:
    """The variables of the template `playground.html`. A test checks that the template uses exactly these."""

    task: PlaygroundTask = field(metadata=explained("Task that the page shows; the reader can switch it"))
    models: Sequence[str] = field(metadata=explained("Names of the models that are compared"))
    baseline: str = field(metadata=explained("Default baseline of the speed-up"))
    assumed: Mapping[str, Sequence[str]] = field(
        metadata=explained("Assumed facts on which predictions depend, by model")
    )
    problem: str = field(metadata=explained("Why comparison is unavailable; empty if it is available"))
    runs: Sequence[int] = field(metadata=explained("Selectable numbers of measured runs per model"))
    default_runs: int = field(metadata=explained("Default number of measured runs"))
    detectors: Sequence[DetectorChoice] = field(metadata=explained("Detectors that are not broken, by name"))


@router.get(
    "/",
    summary="Playground page",
    response_class=HTMLResponse,
    responses=documented(InvalidParameter),
)
@ignores_unknown_parameters
async def playground(
    request: Request,
    task: Annotated[PlaygroundTask, Query(description="Task that the page shows first")] = "classify",
) -> Response:
    """Show the playground, which runs models on an image that is dropped, pasted, chosen or photographed.

    It compares all models that share the default model's labels, or shows the objects that detectors find.
    """
    registry = app_part(request, Registry)
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
        task=task,
        models=models,
        baseline=registry.default_model,
        assumed=assumed,
        problem=problem,
        runs=RUNS,
        default_runs=MIN_REPEAT_FOR_FASTEST,
        detectors=_detectors(registry),
    )
    return app_part(request, Site).page("playground.html", page, here="/", root=root_of(request))


def _detectors(registry: Registry) -> list[DetectorChoice]:
    """Return the detectors that are loaded or still being loaded.

    The default detector is preselected. If it is not among them, the first detector is.
    """
    cards = [entry.card for entry in registry.entries if entry.card is not None and not entry.broken]
    named = {card.name: card for card in cards if card.detection is not None}
    chosen = registry.default_detector if registry.default_detector in named else next(iter(named), None)
    return [
        DetectorChoice(
            name, card.detection.min_score, card.detection.max_detections, name == chosen, card.doubtful
        )
        for name, card in named.items()
        if card.detection is not None
    ]
