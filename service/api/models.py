"""GET /models: the models of the zoo with their cards, and the reason if one is not served."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from models.zoo.card import Activation, Card
from service import errors
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.registry import ModelEntry, Registry


class ModelOut(BaseModel):
    """A model of the zoo."""

    name: str
    loaded: bool
    reason: str | None = Field(description="Why it is not loaded, or why its latest run failed")
    activation: Activation | None = Field(
        description="Activation at the end of the network, from its card or its file; with `softmax` or "
        "`sigmoid`, the service applies no softmax. null if the model is not loaded"
    )
    card: Card | None = Field(description="null if the card is invalid")


class ModelsResponse(BaseModel):
    """All models of the zoo, including broken ones."""

    models: list[ModelOut]


def models_router(registry: Registry) -> APIRouter:
    """Return the routes that describe the models."""
    router = new_router("models")

    @router.get("/models", summary="List models")
    async def models() -> ModelsResponse:
        """List every model of the zoo; `reason` is set if it is not loaded or its latest run failed."""
        return ModelsResponse(models=[_out(entry) for entry in registry.entries])

    @router.get("/models/{name}", summary="Get a model", responses=documented(errors.UnknownModel))
    async def model(name: str) -> ModelOut:
        """Return a model's card; `reason` is set if it is not loaded or its latest run failed."""
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
