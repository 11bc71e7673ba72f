"""Find the served networks of the gallery's embedders."""

from __future__ import annotations

from service.errors import ModelUnavailable, UnknownModel
from service.gallery.embed import dimensions_of, embedder_of, model_name
from service.gallery.records import GalleryState
from service.inference.registry import Registry, ServedModel


class Networks:
    """Finds the networks of the gallery's embedders."""

    def __init__(self, registry: Registry, default: str) -> None:
        """`default`: name of the model of a new gallery."""
        self._registry = registry
        self._default = default

    def named(self, name: str) -> ServedModel:
        """Return a served model with embeddings.

        Raises UnknownModel, NotReady, ModelUnavailable, and InvalidParameter for a model without embeddings.
        """
        model = self._registry.get(name)
        dimensions_of(model)
        return model

    def active(self, state: GalleryState) -> ServedModel:
        """Return the active network. Raises NotReady while it is loading, else ModelUnavailable."""
        return self._default_model() if state.embedder is None else self.of(state.embedder)

    def needed(self, state: GalleryState) -> tuple[ServedModel, ...]:
        """Return the networks that embed a new image. Raises the errors of `active`."""
        if not state.embedders:
            return (self._default_model(),)
        return tuple(self.of(embedder) for embedder in state.embedders)

    def of(self, embedder: str) -> ServedModel:
        """Return the network of an embedder. Raises NotReady while it is loading, else ModelUnavailable."""
        name = model_name(embedder)
        try:
            model = self._registry.get(name)
        except UnknownModel:
            raise ModelUnavailable(
                f"gallery: embedded by model '{name}', which is not served (serve it, or re-index)"
            ) from None
        if embedder_of(model) != embedder:
            raise ModelUnavailable(
                f"gallery: embedded by another file of model '{name}' than the served one (serve that file, "
                "or re-index)"
            )
        return model

    def name_of(self, state: GalleryState) -> str:
        """Return the name of the active network, served or not."""
        return self._default if state.embedder is None else model_name(state.embedder)

    def _default_model(self) -> ServedModel:
        try:
            return self.named(self._default)
        except UnknownModel as error:
            raise ModelUnavailable(f"gallery: no model: {error.detail}") from None
