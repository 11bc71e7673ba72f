"""Why a model names a class: its class activation map, exact where the head is one linear layer."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Classifier
from models.zoo.preprocess import Box, crop_box
from service.errors import InvalidParameter, NoExactMap, UnknownModel
from service.inference.decoding.decode import DecodedImage
from service.inference.heatmap import heatmap_png
from service.inference.linear_head import LinearHead, UnusableHead, read_linear_head
from service.inference.pipeline import load_image, run_model
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry, ServedModel
from service.latency.stages import Durations, Stopwatch

TOLERANCE = 1e-3
"""How far map and logit may lie apart, relative to the logit where that is larger than 1."""


@dataclass(frozen=True)
class Explanation:
    """What each place of an image adds to the logit of one class.

    `values` is float64 (H, W): their mean plus `bias` is `logit`, as the network itself gave it. They cover
    `region` of the image: left, top, right, bottom in its pixels, which is what the network saw. `png` is the
    map as a picture, where one was asked for.
    """

    model: str
    image: DecodedImage
    class_id: int
    label: str
    logit: float
    bias: float
    values: NDArray[np.float64]
    region: Box
    png: bytes | None
    durations: Durations


@dataclass(frozen=True)
class ExplainPlan:
    """A class of a model that a map can be made of, see `Explainer.plan`; `class_id` None: the top class."""

    model: ServedModel
    classifier: Classifier
    class_id: int | None


class Explainer:
    """Explains classifications on the cores of the pool; nothing of it is recorded as latency.

    Classifiers are read when they are first needed, about 5 MB for 1000 classes, and kept.
    """

    def __init__(self, registry: Registry, pool: CorePool, *, max_pixels: int) -> None:
        self._registry = registry
        self._pool = pool
        self._max_pixels = max_pixels
        self._heads: dict[tuple[str, str], LinearHead] = {}
        self._reading = threading.Lock()

    def plan(self, model: ServedModel, class_id: int | None) -> ExplainPlan:
        """Check the class, and by the card that an exact map exists.

        Raises InvalidParameter for a `class_id` that the model has not, and NoExactMap.
        """
        card = model.card
        if class_id is not None and not 0 <= class_id < card.classes:
            raise InvalidParameter(f"class_id is {class_id}; model '{card.name}' has 0 to {card.classes - 1}")
        if model.session.activation != "none":
            raise NoExactMap(
                f"no exact map exists for model '{card.name}': it applies {model.session.activation} itself, "
                "so its logits are not known"
            )
        if card.classifier is None or "features" not in card.outputs:
            raise NoExactMap(
                f"no exact map exists for model '{card.name}': its card names no linear classifier over its "
                "last feature map"
            )
        return ExplainPlan(model, card.classifier, class_id)

    async def run(
        self, plan: ExplainPlan, data: bytes, deadline: Deadline, *, picture: bool, over_image: bool
    ) -> Explanation:
        """Compute the class activation map of the image in `data`, as one job on the pool.

        With `picture` as a PNG too, `over_image` or alone. Raises the errors of `decode` and `CorePool.run`,
        and NoExactMap when map and logit of this very run do not agree: the head is another.
        """
        model = plan.model
        stopwatch = Stopwatch()

        def job() -> Explanation:
            stopwatch.lap("queue")
            image = load_image(data, model.card.input, max_pixels=self._max_pixels, stopwatch=stopwatch)
            outputs = run_model(model, image, ("logits", "features"), stopwatch)
            logits = outputs["logits"]
            chosen = int(logits.argmax()) if plan.class_id is None else plan.class_id
            logit = float(logits[chosen])
            head = self._head(model, plan.classifier)
            values = head.class_map(outputs["features"], chosen)
            bias = float(head.bias[chosen])
            if not abs(values.mean() + bias - logit) <= TOLERANCE * max(1.0, abs(logit)):
                raise NoExactMap(
                    f"no exact map exists for model '{model.name}': the logit is {logit:.4f}, pooling and "
                    f"stored classifier give {values.mean() + bias:.4f}; its head is another"
                )
            region = _region(image, model)
            png = heatmap_png(values, region, image, over_image=over_image) if picture else None
            stopwatch.lap("postprocess")
            label = model.labels[chosen]
            return Explanation(
                model.name, image, chosen, label, logit, bias, values, region, png, stopwatch.stop()
            )

        return await self._pool.run(job, deadline)

    def _head(self, model: ServedModel, stored: Classifier) -> LinearHead:
        """Read the model's classifier once; a thread that needs it meanwhile waits."""
        key = (stored.model, stored.file.sha256)
        head = self._heads.get(key)
        if head is not None:
            return head
        with self._reading:
            head = self._heads.get(key)
            if head is not None:
                return head
            shape = (model.card.classes, model.card.outputs["features"][0])
            try:
                # Held open since the model was loaded: the folder may be another version's by now.
                source = model.head or self._registry.entry(stored.model).folder / stored.file.name
                head = read_linear_head(source, stored.file, shape)
            except (UnknownModel, UnusableHead) as error:
                raise NoExactMap(
                    f"no exact map can be made for model '{model.name}', whose classifier is that of "
                    f"'{stored.model}': {error}"
                ) from None
            cards = [model.card for model in self._registry.loaded]
            needed = {
                (card.classifier.model, card.classifier.file.sha256) for card in cards if card.classifier
            }
            kept = {other: known for other, known in self._heads.items() if other in needed}
            self._heads = {**kept, key: head}  # not those of versions that are gone
        return head


def _region(image: DecodedImage, model: ServedModel) -> Box:
    """What the network saw, in pixels of the image as it is displayed, whatever scale it was decoded at."""
    left, top, right, bottom = image.box
    across, down = image.width / (right - left), image.height / (bottom - top)
    cut = crop_box(model.card.input, image.box)
    return (
        (cut[0] - left) * across,
        (cut[1] - top) * down,
        (cut[2] - left) * across,
        (cut[3] - top) * down,
    )
