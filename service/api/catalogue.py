"""GET /models: the zoo as clients see it, with the cards and with why a model is not served."""

from __future__ import annotations

from fastapi import APIRouter

from service import errors
from service.api.problems import documented
from service.api.schemas import ModelOut, ModelsResponse
from service.registry import ModelEntry, Registry


def catalogue_router(registry: Registry) -> APIRouter:
    """The routes that describe the models."""
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="Which models are there?")
    async def models() -> ModelsResponse:
        """Every model of the zoo folders; one that could not be loaded says why."""
        return ModelsResponse(models=[_out(entry) for entry in registry.entries])

    @router.get("/models/{name}", summary="One model", responses=documented(errors.UnknownModel))
    async def model(name: str) -> ModelOut:
        """A model's card, and why it is not loaded if it is not."""
        return _out(registry.entry(name))

    return router


def _out(entry: ModelEntry) -> ModelOut:
    return ModelOut(name=entry.name, loaded=entry.model is not None, reason=entry.reason, card=entry.card)
