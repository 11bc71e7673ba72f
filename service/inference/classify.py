"""The main path: the bytes of one image through one model."""

from __future__ import annotations

from dataclasses import dataclass

from models.zoo.preprocess import preprocess
from service.errors import InvalidParameter
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.pool import CorePool, Patience
from service.inference.postprocess import Prediction, top_predictions
from service.inference.registry import ServedModel
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stopwatch

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Classification:
    """What one model says of one image, and what saying it took."""

    model: str
    image: DecodedImage
    predictions: tuple[Prediction, ...]
    durations: Durations


class Classifier:
    """Classifies images on the cores of the pool and records what each stage cost."""

    def __init__(self, pool: CorePool, recorder: Recorder, *, max_pixels: int) -> None:
        self._pool = pool
        self._recorder = recorder
        self._max_pixels = max_pixels

    async def classify(
        self, data: bytes, model: ServedModel, *, top_k: int | None, patience: Patience
    ) -> Classification:
        """The `top_k` classes that `model` gives the image in `data` (see `class_count`), recorded as `live`.

        Raises the errors of `decode` for bytes that are no readable image, and those of `CorePool.run`.
        """
        check_top_k(top_k, model)
        count = class_count(top_k, model)
        stopwatch = Stopwatch()

        def job() -> Classification:
            stopwatch.lap("queue")
            image = decode(data, shorter_side=model.card.input.resize, max_pixels=self._max_pixels)
            stopwatch.lap("decode")
            tensor = preprocess(image.pixels, model.card.input, box=image.box)
            stopwatch.lap("preprocess")
            logits = model.session.run(tensor)["logits"][0]
            stopwatch.lap("inference")
            predictions = top_predictions(logits, model.labels, count, model.session.activation)
            stopwatch.lap("postprocess")
            durations = stopwatch.stop()
            self._recorder.record(model.name, "live", durations, model.version)
            return Classification(model.name, image, predictions, durations)

        return await self._pool.run(job, patience)


def class_count(top_k: int | None, model: ServedModel) -> int:
    """Return the number of classes to answer with: `top_k`, by default 5 or all where there are fewer."""
    return min(DEFAULT_TOP_K, model.card.classes) if top_k is None else top_k


def check_top_k(top_k: int | None, *models: ServedModel) -> None:
    """Raise InvalidParameter for a `top_k` that is not positive or more than the classes of some model."""
    if top_k is None:
        return
    most = min(model.card.classes for model in models)
    if not 1 <= top_k <= most:
        raise InvalidParameter(f"top_k is {top_k}; it may be 1 to {most}, the number of classes")
