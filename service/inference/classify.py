"""Classify images: run one model on an image and return its most probable classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Activation
from service.errors import InvalidParameter
from service.inference.decoding.decode import DecodedImage
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, run_model
from service.inference.pool import CorePool, Deadline
from service.inference.runtimes.base import RuntimeName
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Regime, Stopwatch

DEFAULT_TOP_K = 5

_SORTED_BY_PYTHON = 50
"""Largest number of classes that Python sorts. NumPy's sort is faster, but it releases the GIL, and its
thread may wait long to get the GIL again."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class with its probability, as `probabilities` computes it."""

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """Predictions of one model for one image, with durations per stage in nanoseconds."""

    model: str
    runtime: RuntimeName
    precision: str
    image: DecodedImage
    predictions: tuple[Prediction, ...]
    durations: Durations


class Classifier:
    """Classifies images on the pool and records the latency of each stage."""

    def __init__(
        self, pool: CorePool, recorder: Recorder, *, max_pixels: int, regime: Regime = "live"
    ) -> None:
        """Use `regime` for all recorded latencies."""
        self._pool = pool
        self._recorder = recorder
        self._max_pixels = max_pixels
        self._regime = regime

    async def classify(
        self, data: bytes, model: ServedModel, count: int, deadline: Deadline
    ) -> Classification:
        """Return the `count` most probable classes (see `class_counts`) of the image in `data`.

        Raises the errors of `decode` and of `CorePool.run`.
        """
        stopwatch = Stopwatch()

        def job() -> Classification:
            stopwatch.lap("queue")
            image = load_image(data, model.card.input, max_pixels=self._max_pixels, stopwatch=stopwatch)
            predictions = predict(model, image, count, stopwatch)
            durations = stopwatch.stop()
            ran = model.predictor
            self._recorder.record(model.name, self._regime, durations, model.version, ran.label)
            return Classification(model.name, ran.runtime, ran.precision, image, predictions, durations)

        return await self._pool.run(job, deadline)


def class_counts(top_k: int | None, *models: ServedModel) -> tuple[int, ...]:
    """Return the number of classes to report for each model.

    The number is `top_k`. If `top_k` is None, it is 5, or the number of all classes for a model that has
    fewer than 5. Raises InvalidParameter if `top_k` is less than 1 or more than the number of classes of a
    model.
    """
    fewest = min(model.card.classes for model in models)
    if top_k is not None and not 1 <= top_k <= fewest:
        raise InvalidParameter(f"top_k {top_k}: out of range (allowed: 1 to {fewest}, the number of classes)")
    return tuple(min(DEFAULT_TOP_K, model.card.classes) if top_k is None else top_k for model in models)


def predict(
    model: ServedModel, image: DecodedImage, count: int, stopwatch: Stopwatch
) -> tuple[Prediction, ...]:
    """Return the `count` most probable classes of one image.

    Times the stages `preprocess`, `inference` and `postprocess`. Raises ModelUnavailable if the run fails.
    """
    logits = run_model(model, image, ("logits",), stopwatch)["logits"]
    predictions = top_predictions(
        logits,
        model.labels,
        count,
        model.session.activation,
        multi_label=model.card.outputs.get("multi_label", False),
    )
    stopwatch.lap("postprocess")
    return predictions


def top_predictions(
    logits: NDArray[np.float32],
    labels: Sequence[str],
    k: int,
    activation: Activation = "none",
    *,
    multi_label: bool = False,
) -> tuple[Prediction, ...]:
    """Return the `k` most probable classes of `logits`, float32 (classes,), most probable first.

    See `probabilities` for `activation` and `multi_label`. Classes with equal logits are ordered by class id.
    """
    top = most_probable(logits, k)
    shares = probabilities(logits, top, activation, multi_label=multi_label)
    return tuple(
        Prediction(class_id, labels[class_id], probability)
        for class_id, probability in zip(top.tolist(), shares.tolist(), strict=True)
    )


def most_probable(logits: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the ids of the `k` classes with the largest `logits`, in descending order of the logits.

    `logits` has the shape (classes,). Classes with equal logits are ordered by class id.
    """
    first = max(0, logits.size - k - 1)
    ids = np.argpartition(logits, first)[first:]  # k + 1 classes, the least probable of them first
    if (
        ids.size > k and logits[ids[0]] == logits[ids[1:]].min()
    ):  # a tie for the last place: take all tied classes
        ids = np.flatnonzero(logits >= logits[ids[0]])
    if ids.size > _SORTED_BY_PYTHON:
        ids.sort()
        return ids[np.argsort(-logits[ids], kind="stable")][:k]
    values = dict(zip(ids.tolist(), logits[ids].tolist(), strict=True))
    return np.array(sorted(values, key=lambda class_id: (-values[class_id], class_id))[:k])


def probabilities(
    logits: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    activation: Activation = "none",
    *,
    multi_label: bool = False,
) -> NDArray[np.float64]:
    """Return the probabilities of `class_ids` as float64, given `logits`, float32 (classes,).

    With `multi_label`, a probability is the sigmoid of the class's logit. Without it, the probabilities are
    the softmax over the logits of all classes. `activation`: what the network itself has already applied.
    Unless this is "none", `logits` are the probabilities, and are only clipped to the range from 0 to 1.
    """
    if activation == "none" and multi_label:
        return (1 + np.tanh(logits[class_ids].astype(np.float64) / 2)) / 2
    if activation == "none":
        scores = np.subtract(logits, logits.max(), dtype=np.float64)
        np.exp(scores, out=scores)
        shares: NDArray[np.float64] = scores[class_ids] / scores.sum()
        return shares
    return np.clip(logits[class_ids].astype(np.float64), 0, 1)
