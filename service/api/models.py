"""GET /models: list the models, with their cards and why one is not served."""

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
    version: str | None = Field(
        description="SHA-256 of the file that is served; null where it is not loaded",
        examples=["d6a1f3e0c2b4956877c1d5e2f3a4b5c6d7e8f9000112233445566778899aabbc"],
    )
    refused: str | None = Field(
        description="Why what is in its folder by now is not served, but the version before it",
        examples=[None],
    )
    activation: Activation | None = Field(
        description="What the network applies to its logits itself, as its card says or its file shows: then "
        "no softmax is applied here; null where it is not loaded"
    )
    assumed: list[str] = Field(
        description="Facts of the card that nothing supports, by their paths; with those of `input`, "
        "`outputs` and `labels` predictions may be wrong",
        examples=[[]],
    )
    card: Card | None = Field(description="null where the card itself is not valid")


class ModelsResponse(BaseModel):
    """All models of the zoo, the broken ones too."""

    models: list[ModelOut]


def models_router(registry: Registry) -> APIRouter:
    """Return the routes that describe the models."""
    router = new_router("models")

    @router.get("/models", summary="List models")
    async def models() -> ModelsResponse:
        """List every model of the zoo folders; `reason` says why one is not loaded or why its run failed."""
        return ModelsResponse(models=[_out(entry) for entry in registry.entries])

    @router.get("/models/{name}", summary="Get a model", responses=documented(errors.UnknownModel))
    async def model(name: str) -> ModelOut:
        """Return a model's card, and why it is not loaded or its latest run failed."""
        return _out(registry.entry(name))

    return router


def _out(entry: ModelEntry) -> ModelOut:
    return ModelOut(
        name=entry.name,
        loaded=entry.model is not None,
        reason=entry.problem,
        version=None if entry.model is None else entry.model.version,
        refused=entry.refused,
        activation=None if entry.model is None else entry.model.session.activation,
        assumed=[] if entry.card is None else list(entry.card.assumed),
        card=entry.card,
    )
