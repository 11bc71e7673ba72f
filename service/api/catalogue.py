"""GET /models: the zoo as clients see it, with the cards and with why a model is not served."""

from __future__ import annotations

from fastapi import APIRouter

from service import errors
from service.api.problems import documented
from service.api.schemas import ModelOut, ModelsResponse
from service.inference.registry import ModelEntry, Registry


def catalogue_router(registry: Registry) -> APIRouter:
    """The routes that describe the models."""
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="Which models are there?")
    async def models() -> ModelsResponse:
        """List every model of the zoo folders; `reason` says why one is not loaded or why its run failed."""
        return ModelsResponse(models=[_out(entry) for entry in registry.entries])

    @router.get("/models/{name}", summary="One model", responses=documented(errors.UnknownModel))
    async def model(name: str) -> ModelOut:
        """Return a model's card, and why it is not loaded or its latest run failed."""
        return _out(registry.entry(name))

    return router


def _out(entry: ModelEntry) -> ModelOut:
    return ModelOut(
        name=entry.name,
        loaded=entry.model is not None,
        reason=entry.problem,
        activation=None if entry.model is None else entry.model.session.activation,
        card=entry.card,
    )
