"""Which served network an embedder's name stands for."""

from __future__ import annotations

from service.errors import ModelUnavailable, UnknownModel
from service.gallery.embed import dimensions_of, embedder_of, model_name
from service.gallery.records import GalleryState
from service.inference.registry import Registry, ServedModel


class Networks:
    """Finds the networks that the gallery's embeddings are of."""

    def __init__(self, registry: Registry, default: str) -> None:
        """`default`: the model of a gallery that has no image yet."""
        self._registry = registry
        self._default = default

    def named(self, name: str) -> ServedModel:
        """A served model that gives embeddings.

        Raises UnknownModel, NotReady, ModelUnavailable, and InvalidParameter for one that gives none.
        """
        model = self._registry.get(name)
        dimensions_of(model)
        return model

    def active(self, state: GalleryState) -> ServedModel:
        """The active network. NotReady while it is loaded, ModelUnavailable if it is not served."""
        return self._default_model() if state.embedder is None else self.of(state.embedder)

    def needed(self, state: GalleryState) -> tuple[ServedModel, ...]:
        """The networks that an image which comes now is embedded by. Raises as `active` does."""
        if not state.embedders:
            return (self._default_model(),)
        return tuple(self.of(embedder) for embedder in state.embedders)

    def of(self, embedder: str) -> ServedModel:
        """The network of that name and file. NotReady while it is loaded, ModelUnavailable if it is not."""
        name = model_name(embedder)
        try:
            model = self._registry.get(name)
        except UnknownModel:
            raise ModelUnavailable(
                f"the gallery was embedded by model '{name}', which is not served here: serve it, or reindex"
            ) from None
        if embedder_of(model) != embedder:
            raise ModelUnavailable(
                f"the gallery was embedded by another file of model '{name}' than the one served: "
                "serve that one, or reindex"
            )
        return model

    def name_of(self, state: GalleryState) -> str:
        """The name of the network that answers, whether it is served or not."""
        return self._default if state.embedder is None else model_name(state.embedder)

    def _default_model(self) -> ServedModel:
        try:
            return self.named(self._default)
        except UnknownModel as error:
            raise ModelUnavailable(f"the gallery needs a model: {error.detail}") from None
