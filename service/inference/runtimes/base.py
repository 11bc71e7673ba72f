"""Base class of sessions. A session is a model that a runtime has loaded; it checks outputs by the card."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import structlog
from numpy.typing import NDArray

from models.onnx_tools.file_kind import what_it_is
from models.onnx_tools.inspect import UnreadableModel, external_files
from models.zoo.card import Activation, Card
from models.zoo.detection import DecodedBoxes, ScoreActivation, SelectedBoxes
from models.zoo.preprocess import graph_input
from service.errors import ModelUnavailable

RuntimeName = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
INTEGER_OUTPUTS = ("classes", "count", "selected")
"""Outputs of a detector that the graph may compute as integers."""

log = structlog.get_logger(__name__)

_ROUNDING = 1e-3
"""How far a probability may lie outside of 0 to 1, for example because of quantization."""
_SUM_ROUNDING = 1e-2
_CLASS_ROUNDING = 1 / 512
"""The sum of a softmax may differ from 1 by _SUM_ROUNDING, plus _CLASS_ROUNDING for each class. The value of
_CLASS_ROUNDING is half a step of 8 bits."""

_FLOAT32 = np.dtype(np.float32)
_MAX_BOXES = 100_000
"""Largest number of boxes in an output whose number of boxes varies from image to image."""


class SessionError(Exception):
    """A runtime cannot load or run a model file. The message gives the reason, without paths."""


class Session(ABC):
    """A model that one runtime has loaded, thread-safe.

    In the service every run uses one thread. ONNX Runtime uses the calling thread. OpenVINO uses one of its
    own threads, and the calling thread waits. The throughput is higher if each core serves a request of its
    own than if several threads work on one image (see docs/measurement.md).
    """

    runtime: ClassVar[RuntimeName]

    def __init__(self, card: Card, outputs: Sequence[str]) -> None:
        """Prepare the checks of the outputs.

        `outputs`: the card's names of the outputs that this session can compute.
        """
        self._name = card.name
        self._card_precision = card.precision
        self._main = card.main_outputs
        self._shapes = {name: _batched(name, card.output_shapes[name]) for name in outputs}
        self._names = {name: card.output_name(name) for name in outputs}
        self._detection = card.detection
        self._unbatched = unbatched_outputs(card)
        first = card.class_offset
        self._classes = slice(first, first + card.classes)
        self._background = math.prod(card.outputs.get("logits", ())) > card.classes
        self._input = card.input
        self._shape = (card.input.channels, card.input.height, card.input.width)
        self.activation: Activation = card.outputs.get("activation", "none")
        """Activation that the network applies. Unless it is "none", outputs must be within 0 to 1."""
        self.failure: str | None = None
        """Reason why the latest run failed, or None if it succeeded. It is accessed without a lock."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Precision in which the network is computed: the card's precision, or another one, such as bf16."""

    @property
    def label(self) -> str:
        """The runtime's name.

        If the precision is not the card's, a hyphen and the precision are appended, as in `openvino-bf16`. A
        `+` in the precision becomes `-`, because it would mean a space in a URL: `openvino-int8-bf16`.
        """
        same = self.precision == self._card_precision
        return self.runtime if same else f"{self.runtime}-{self.precision.replace('+', '-')}"

    @abstractmethod
    def _compute(self, image: NDArray[np.float32], names: list[str], limit_s: float | None) -> list[Any]:
        """Run the network on `image`, float32 (N, C, H, W), and return some of its outputs.

        `names`: the graph's names of the outputs to return. Raises ModelUnavailable if the runtime fails, or
        if the run takes longer than `limit_s`. This error must be made with `_failed`.
        """

    def run(
        self,
        image: NDArray[np.float32],
        outputs: Sequence[str] | None = None,
        *,
        limit_s: float | None = None,
    ) -> Mapping[str, NDArray[np.float32]]:
        """Run the network on `image`, float32 (N, C, H, W), and return `outputs` by name.

        If `outputs` is None, the card's main outputs are returned. The first dimension of each is the batch.
        This method converts the image to the graph's layout and dtype, and splits it into batches if the
        graph has a fixed batch size. `logits` are (N, classes), without a background class; `embedding` is
        (N, channels). All outputs are float32, except for `selected` of a detector. An output without a batch
        dimension gets one of size 1. Only the requested outputs are computed. Their shapes are checked
        against the card, and all numbers must be finite.

        Raises ModelUnavailable if a check fails, if the runtime fails, or if the run takes longer than
        `limit_s` (it stops at the next operator). Raises ValueError for an image of another shape or dtype,
        and for an output that the card does not have.
        """
        outputs = self._main if outputs is None else outputs
        unknown = [name for name in outputs if name not in self._names]
        if unknown:
            raise ValueError(f"outputs: '{unknown[0]}' (allowed: {', '.join(self._names)})")
        if image.dtype != np.float32 or image.shape[1:] != self._shape:
            raise ValueError(f"image: {image.dtype} {image.shape} (allowed: float32 (N, {self._shape}))")
        if self._unbatched and len(image) != 1:
            raise ValueError(f"image: {len(image)} images (allowed: 1, as not all outputs have a batch)")
        names = [self._names[name] for name in outputs]
        values = self._compute(image, names, limit_s)
        results: dict[str, NDArray[np.float32]] = {}
        for name, given in zip(outputs, values, strict=True):
            if self._detection is not None:
                results[name] = self._detector_output(name, given, len(image))
                continue
            shape, flat = self._shapes[name]
            value = given
            if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float64):
                value = value.astype(np.float32)
            problem = output_problem(name, value, (len(image), *shape))
            if problem is None and flat:
                value = value.reshape(len(image), -1)
            if problem is None and name == "logits" and self.activation != "none":
                problem = _activation_problem(value, self.activation)
            if problem is not None:
                raise self._failed(problem)
            results[name] = value[:, self._classes] if name == "logits" and self._background else value
        if self._unbatched and len({results[name].shape[1] for name in self._unbatched & results.keys()}) > 1:
            lengths = ", ".join(f"'{name}' {results[name].shape[1]}" for name in sorted(results))
            raise self._failed(f"outputs have different numbers of boxes: {lengths}")
        if self.failure is not None:
            self.failure = None
        return results

    def _detector_output(self, name: str, value: Any, images: int) -> NDArray[Any]:
        """Check an output of a detector against the card, and return it with the batch as first dimension.

        The output `selected`, which has indices, is int64. All other outputs are float32. Raises
        ModelUnavailable if a check fails.
        """
        assert self._detection is not None
        shape, _ = self._shapes[name]
        kind = np.dtype(np.int64 if name == "selected" else np.float32)
        if name in self._unbatched:
            rows = len(value) if isinstance(value, np.ndarray) and value.ndim else 0
            if rows > _MAX_BOXES:
                raise self._failed(f"output '{name}' has {rows} rows (limit: {_MAX_BOXES})")
            value, shape = np.asarray(value)[None], (rows, *shape)
        if isinstance(value, np.ndarray) and value.dtype != kind and value.dtype.kind in "fiu":
            value = value.astype(kind)
        problem = output_problem(name, value, (images, *shape), kind)
        if problem is None and name in ("scores", "heatmap"):
            problem = _scores_problem(name, value, getattr(self._detection.decoder, "activation", "none"))
        if problem is not None:
            raise self._failed(problem)
        checked: NDArray[Any] = value
        return checked

    def _in_batches(
        self,
        image: NDArray[np.float32],
        names: list[str],
        size: int,
        run: Callable[[NDArray[Any]], list[Any]],
    ) -> list[Any]:
        """Convert the images to the graph's layout and dtype, and return the outputs of `run` for them.

        At most `size` images are passed to `run` at a time.
        """
        tensor = graph_input(image, self._input)
        batches = []
        for start in range(0, len(tensor), size):
            batch = tensor[start : start + size]
            if len(batch) < size:  # the batch size is fixed: fill up with the last image
                batch = np.concatenate((batch, np.repeat(batch[-1:], size - len(batch), axis=0)))
            batches.append(run(batch))
        if len(batches) == 1:
            kept = {self._names[name] for name in self._unbatched}
            return [
                value[: len(tensor)] if isinstance(value, np.ndarray) and name not in kept else value
                for name, value in zip(names, batches[0], strict=True)
            ]
        return [np.concatenate(values)[: len(tensor)] for values in zip(*batches, strict=True)]

    def _failed(self, problem: str) -> ModelUnavailable:
        if self.failure != problem:  # log each problem once, not per request
            log.warning("model run failed", model=self._name, reason=problem)
        self.failure = problem
        return ModelUnavailable(f"model '{self._name}' failed: {problem}")


def _batched(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Return the shape of one image's output in the graph, and whether the output is to be flattened.

    Outputs with more than one dimension per image, such as logits of the shape (1000, 1, 1), are flattened,
    except for the output `features`.
    """
    return shape, name != "features" and len(shape) > 1


def output_problem(
    name: str, value: object, expected: tuple[int, ...], kind: np.dtype[Any] = _FLOAT32
) -> str | None:
    """Return what is wrong with an output.

    Return None if all its numbers are finite, its shape is `expected`, and its type is `kind`.
    """
    if not isinstance(value, np.ndarray):
        return f"output '{name}' is a {type(value).__name__}, the card says one tensor"
    if value.dtype != kind or value.shape != expected:
        return f"output '{name}' is {value.dtype} {value.shape}, the card says {kind} {expected}"
    # The sum checks all numbers in one pass: in float64 it is finite if and only if all float32 numbers are.
    with np.errstate(invalid="ignore"):
        total = float(value.sum(dtype=np.float64))
    if math.isfinite(total):
        return None
    others = value.size - np.count_nonzero(np.isfinite(value))
    return f"output '{name}' is not finite: {others} of {value.size} values"


def unbatched_outputs(card: Card) -> frozenset[str]:
    """Return the outputs of a detector whose first dimension is the number of boxes, not of images."""
    decoder = None if card.detection is None else card.detection.decoder
    if isinstance(decoder, DecodedBoxes) and decoder.boxes_first:
        return frozenset(card.output_shapes)
    return frozenset({"selected"} if isinstance(decoder, SelectedBoxes) else ())


def _scores_problem(name: str, scores: NDArray[np.float32], activation: ScoreActivation) -> str | None:
    """Return an error message if a detector's scores should be within 0 to 1, but are not.

    Return None if the scores are within 0 to 1, or if an activation is still to be applied to them.
    """
    if activation != "none" or not scores.size:
        return None
    low, high = float(scores.min()), float(scores.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return None
    return (
        f"output '{name}' has values from {low:.4g} to {high:.4g}, but scores are 0 to 1 "
        "(detection.decoder.activation in card.json: none, sigmoid or softmax)"
    )


def _activation_problem(logits: NDArray[np.float32], activation: Activation) -> str | None:
    """Return why `logits`, float32 (N, classes), cannot be outputs of `activation`.

    Return None if they can be.
    """
    hint = "(outputs.activation in card.json: none, softmax or sigmoid)"
    low, high = float(logits.min()), float(logits.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        return (
            f"output 'logits' has values from {low:.4g} to {high:.4g}, but {activation} gives 0 to 1 {hint}"
        )
    if activation == "softmax":
        sums = logits.sum(axis=1, dtype=np.float64)
        worst = float(sums[np.abs(sums - 1).argmax()])
        if abs(worst - 1) > _SUM_ROUNDING + logits.shape[1] * _CLASS_ROUNDING:
            return f"output 'logits' has the sum {worst:.4g}, but softmax over the classes gives 1 {hint}"
    return None


def check_self_contained(content: bytes) -> None:
    """Raise SessionError, with the file names, if an ONNX file stores tensors in other files.

    The card's checksum does not cover these files. A runtime would search for them in the working directory,
    because it gets the model as bytes.
    """
    try:
        files = external_files(content)
    except UnreadableModel as error:
        raise SessionError(f"the model cannot be loaded: {what_it_is(content) or error}") from None
    if files:
        named = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        raise SessionError(
            f"the model has external data ({named}), which its checksum does not cover: save it as one file"
        )
