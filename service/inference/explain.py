"""Explain a prediction by its class activation map, which is exact for networks with a linear head."""

from __future__ import annotations

import contextlib
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
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, run_model
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.latency.stages import Durations, Stopwatch

TOLERANCE = 1e-3
"""Maximum difference between the logit and the map's mean plus bias. For logits up to 1, this is the absolute
difference. For larger logits, it is the difference divided by the logit."""


@dataclass(frozen=True)
class Explanation:
    """Class activation map of one class: how much each place of the image adds to the logit.

    `values`: the map, float64 (H, W). Its mean plus `bias` equals `logit`, the network's output. `region`:
    left, top, right and bottom of the network's input, in pixels of the image. `png`: the rendered map. It is
    None if no picture was requested.
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
    """A validated request for an explanation, as `Explainer.plan` returns it.

    `classifier`: the card's description of the stored linear classifier. If `class_id` is None, the most
    probable class is explained.
    """

    model: ServedModel
    classifier: Classifier
    class_id: int | None


class Explainer:
    """Explains predictions on the pool, without recording latency.

    The stored linear classifiers of models are read on first use and cached. A classifier of 1000 classes
    takes about 5 MB.
    """

    def __init__(self, registry: Registry, pool: CorePool, *, max_pixels: int) -> None:
        self._registry = registry
        self._pool = pool
        self._max_pixels = max_pixels
        self._heads: dict[tuple[str, str], LinearHead] = {}
        self._reading = threading.Lock()

    def plan(self, model: ServedModel, class_id: int | None) -> ExplainPlan:
        """Validate the class, and check by the card that the model has an exact map.

        Raises InvalidParameter if the model has no class `class_id`, and NoExactMap if it has no exact map.
        """
        card = model.card
        if class_id is not None and not 0 <= class_id < card.classes:
            raise InvalidParameter(
                f"class_id {class_id}: out of range (allowed: 0 to {card.classes - 1} of model '{card.name}')"
            )
        if model.session.activation != "none":
            raise NoExactMap(
                f"model '{card.name}': no exact map, because the network applies {model.session.activation} "
                "and its logits are unknown"
            )
        if card.classifier is None or "features" not in card.outputs:
            raise NoExactMap(
                f"model '{card.name}': no exact map, because its card has no linear classifier on the last "
                "feature map"
            )
        return ExplainPlan(model, card.classifier, class_id)

    async def run(
        self, plan: ExplainPlan, data: bytes, deadline: Deadline, *, picture: bool, over_image: bool
    ) -> Explanation:
        """Compute the class activation map of the image in `data`, as one job on the pool.

        With `picture`, render the map as PNG, over the image if `over_image`. Raises the errors of `decode`
        and `CorePool.run`. Raises NoExactMap if the map does not add up to the logit of this run, because the
        network's last layer is not the stored classifier.
        """
        model = plan.model
        stopwatch = Stopwatch()

        def job() -> Explanation:
            stopwatch.lap("queue")
            image = load_image(data, model.card.input, max_pixels=self._max_pixels, stopwatch=stopwatch)
            outputs = run_model(model, image, ("logits", "features"), stopwatch)
            logits = outputs["logits"]
            class_id = int(logits.argmax()) if plan.class_id is None else plan.class_id
            logit = float(logits[class_id])
            head = self._head(model, plan.classifier)
            values = head.class_map(outputs["features"], class_id)
            bias = float(head.bias[class_id])
            if not abs(values.mean() + bias - logit) <= TOLERANCE * max(1.0, abs(logit)):
                raise NoExactMap(
                    f"model '{model.name}': no exact map, because the logit is {logit:.4f}, but pooling and "
                    f"the stored classifier give {values.mean() + bias:.4f}"
                )
            region = _region(image, model)
            png = heatmap_png(values, region, image, over_image=over_image) if picture else None
            stopwatch.lap("postprocess")
            label = model.labels[class_id]
            return Explanation(
                model.name, image, class_id, label, logit, bias, values, region, png, stopwatch.stop()
            )

        return await self._pool.run(job, deadline)

    def _head(self, model: ServedModel, stored: Classifier) -> LinearHead:
        """Return the model's classifier from the cache, or read it.

        Only one thread reads at a time. Other threads that need a classifier wait for it.
        """
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
                head = self._read(model, stored, shape)
            except (UnknownModel, UnusableHead) as error:
                raise NoExactMap(
                    f"model '{model.name}': no exact map, because the classifier of '{stored.model}' "
                    f"cannot be read: {error}"
                ) from None
            cards = [model.card for model in self._registry.loaded]
            needed = {
                (card.classifier.model, card.classifier.file.sha256) for card in cards if card.classifier
            }
            kept = {other: known for other, known in self._heads.items() if other in needed}
            self._heads = {**kept, key: head}  # drops classifiers that no loaded model needs any more
        return head

    def _read(self, model: ServedModel, stored: Classifier, shape: tuple[int, int]) -> LinearHead:
        """Read the classifier from the file that is open since loading, or from the folder if this fails.

        The open file is tried first, because the file in the folder may have been replaced by another version
        since. But the open file may also be a wrong version: perhaps the file that the card describes was
        moved into the folder only after an older file had been opened. Raises UnknownModel and UnusableHead.
        """
        if model.head is not None:
            with contextlib.suppress(UnusableHead):
                return read_linear_head(model.head, stored.file, shape)
        path = self._registry.entry(stored.model).folder / stored.file.name
        return read_linear_head(path, stored.file, shape)


def _region(image: DecodedImage, model: ServedModel) -> Box:
    """Return the region that the network sees, in pixels of the full-size image."""
    left, top, right, bottom = image.box
    scale_x, scale_y = image.width / (right - left), image.height / (bottom - top)
    crop = crop_box(model.card.input, image.box)
    return (
        (crop[0] - left) * scale_x,
        (crop[1] - top) * scale_y,
        (crop[2] - left) * scale_x,
        (crop[3] - top) * scale_y,
    )
