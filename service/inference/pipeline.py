"""Inference pipeline: decode an image, preprocess it for a network, run the network, and time each stage.

/classify, /detect, /compare, /explain, the gallery and the benchmarks all use these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import InputSpec
from models.zoo.preprocess import preprocess, shorter_side
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.loading import ServedModel
from service.latency.stages import Stopwatch

T = TypeVar("T")


def load_image(
    data: bytes,
    *specs: InputSpec,
    max_pixels: int,
    min_side: int = 0,
    stopwatch: Stopwatch | None = None,
) -> DecodedImage:
    """Decode `data` at the smallest scale that is large enough for all networks of `specs`.

    `min_side`: minimum pixels of the shorter side. Times the stage `decode`. Raises the errors of `decode`.
    """
    stopwatch = stopwatch or Stopwatch()
    image = decode(data, shorter_side=max(shorter_side(*specs), min_side), max_pixels=max_pixels)
    stopwatch.lap("decode")
    return image


def to_tensor(image: DecodedImage, spec: InputSpec) -> NDArray[np.float32]:
    """Preprocess the image for the network of `spec`: float32 (1, channels, height, width)."""
    return preprocess(image.pixels, spec, box=image.box)


def run_network(
    run: Callable[[NDArray[np.float32]], T],
    spec: InputSpec,
    image: DecodedImage,
    stopwatch: Stopwatch | None = None,
) -> T:
    """Preprocess the image for `spec` and return the result of `run` on the tensor.

    Times the stages `preprocess` and `inference`. Raises the errors of `run`.
    """
    stopwatch = stopwatch or Stopwatch()
    tensor = to_tensor(image, spec)
    stopwatch.lap("preprocess")
    result = run(tensor)
    stopwatch.lap("inference")
    return result


def run_model(
    model: ServedModel,
    image: DecodedImage,
    outputs: Sequence[str] = ("logits",),
    stopwatch: Stopwatch | None = None,
) -> Mapping[str, NDArray[np.float32]]:
    """Run a served model on one image. Return `outputs` by name, without the batch dimension.

    Uses the session that `ServedModel.session_for` returns. Times the stages `preprocess` and `inference`.
    Raises ModelUnavailable if the run fails.
    """
    session = model.session_for(outputs)
    values = run_network(lambda tensor: session.run(tensor, outputs), model.card.input, image, stopwatch)
    return {name: value[0] for name, value in values.items()}
