"""ONNX Runtime sessions: load, check, run and profile models. The only importer of onnxruntime."""

from __future__ import annotations

import functools
import json
import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from models.onnx_tools.file_kind import what_it_is
from models.onnx_tools.inspect import UnreadableModel, external_files
from models.zoo.card import Activation, Card, InputSpec
from models.zoo.detection import DecodedBoxes, ScoreActivation, SelectedBoxes
from models.zoo.preprocess import graph_input
from service.errors import ModelUnavailable
from service.inference.runtime_errors import runtime_words

RUNTIME_VERSION: str = onnxruntime.__version__
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
_INTEGER_TYPES = ("tensor(int64)", "tensor(int32)")
INTEGER_OUTPUTS = ("classes", "count", "selected")
"""Outputs of a detector that may be integers in the graph."""
_INPUT_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
SESSION_OPTIONS: dict[str, str] = {
    "execution_mode": "sequential",
    "allow_spinning": "0",
    "provider": "CPUExecutionProvider",
}
"""Options of every session, as benchmarks record them."""

log = structlog.get_logger(__name__)

# ONNX Runtime writes to standard error in a format of its own; failures are logged here instead.
_FATAL_ONLY = 4


_ROUNDING = 1e-3
"""Tolerance of probabilities outside of 0 to 1, for example because of quantization."""
_SUM_ROUNDING = 1e-2
_CLASS_ROUNDING = 1 / 512
"""Tolerance of the sum of softmax around 1: a constant, plus half a step of 8 bits per class."""

_FLOAT32 = np.dtype(np.float32)
_MAX_BOXES = 100_000
"""Largest number of boxes of an output whose number of boxes varies."""


class SessionError(Exception):
    """The file cannot be served; the message says how it differs from the card, without paths."""


class OnnxSession:
    """Session of one model, thread-safe.

    In the service every run uses only the calling thread. One request per core has a higher throughput than
    several threads per image (see docs/measurement.md).
    """

    def __init__(
        self,
        content: bytes,
        card: Card,
        *,
        threads: int = 1,
        spinning: bool = False,
    ) -> None:
        """Load the `content` of an ONNX file. Raises SessionError if it does not load or differs from `card`.

        For benchmarks only: `threads` per run, and `spinning`, whether idle threads busy-wait for work.
        """
        self._session = _load(content, _options(threads=threads, spinning=spinning))
        self._name = card.name
        self._shapes = {name: _batched(name, shape) for name, shape in card.output_shapes.items()}
        self._names = {name: card.output_name(name) for name in card.output_shapes}
        self._detection = card.detection
        self._unbatched = unbatched_outputs(card)
        first = card.class_offset
        self._classes = slice(first, first + card.classes)
        self._background = math.prod(card.outputs.get("logits", ())) > card.classes
        self._input = card.input
        self._plain = (self._input.layout, self._input.dtype, self._input.batch) == ("nchw", "float32", None)
        try:
            self._check(card)
        except UnicodeDecodeError as error:
            raise SessionError(
                f"the model's inputs or outputs have names that are not UTF-8: {error}"
            ) from None
        self.activation: Activation = card.outputs.get("activation", "none")
        """Activation of the network's output; unless "none", outputs are checked to be within 0 to 1."""
        self.failure: str | None = None
        """Reason why the latest run failed; None after a success. Accessed without a lock."""
        self._run_options = _run_options()
        self._shape = (card.input.channels, card.input.height, card.input.width)

    def run(
        self,
        image: NDArray[np.float32],
        outputs: Sequence[str] = ("logits",),
        *,
        limit_s: float | None = None,
    ) -> Mapping[str, NDArray[np.float32]]:
        """Run the network on `image`, float32 (N, C, H, W), and return `outputs` by name, batch first.

        The image is brought to the graph's own layout, dtype and fixed batch here. `logits` are (N, classes),
        without a background class, `embedding` is (N, channels); all are float32, except for `selected` of a
        detector. Outputs without a batch dimension get one of 1. Outputs that are not asked for are neither
        computed nor copied. All others are checked: shape as in the card, every number finite.

        Raises ModelUnavailable if a check fails, the runtime fails, or the run takes longer than `limit_s`
        (it stops at the next operator), and ValueError for an image of another shape or dtype, or an output
        that the card does not have.
        """
        unknown = [name for name in outputs if name not in self._names]
        if unknown:
            raise ValueError(f"outputs: '{unknown[0]}' (allowed: {', '.join(self._names)})")
        if image.dtype != np.float32 or image.shape[1:] != self._shape:
            raise ValueError(f"image: {image.dtype} {image.shape} (allowed: float32 (N, {self._shape}))")
        if self._unbatched and len(image) != 1:
            raise ValueError(f"image: {len(image)} images (allowed: 1, as not all outputs have a batch)")
        names = [self._names[name] for name in outputs]
        options, timer = (self._run_options, None) if limit_s is None else _limited(limit_s)
        try:
            if self._plain:
                values = self._session.run(names, {self._input.name: image}, options)
            else:
                values = self._run_adapted(image, names, options)
        except Exception as error:  # a dozen types of onnxruntime's own, and MemoryError
            reason = f"ONNX Runtime {RUNTIME_VERSION} cannot run it: {runtime_words(error)}"
            if options.terminate:
                reason = f"a run takes longer than {limit_s:g} s"
            raise self._failed(reason) from error
        finally:
            if timer is not None:
                timer.cancel()
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
        """Return an output of a detector, batch first. Raises ModelUnavailable if it is not as the card says.

        Indices (`selected`) are int64, all others float32.
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

    def _run_adapted(
        self, image: NDArray[np.float32], names: list[str], options: onnxruntime.RunOptions
    ) -> list[Any]:
        """Run the graph on images in its own layout and dtype, in batches of its fixed size."""
        tensor = graph_input(image, self._input)
        size = self._input.batch or len(tensor)
        batches = []
        for start in range(0, len(tensor), size):
            batch = tensor[start : start + size]
            if len(batch) < size:  # a fixed batch: repeat the last image
                batch = np.concatenate((batch, np.repeat(batch[-1:], size - len(batch), axis=0)))
            batches.append(self._session.run(names, {self._input.name: batch}, options))
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

    def _check(self, card: Card) -> None:
        spec = card.input
        inputs = {node.name: (node.type, node.shape) for node in self._session.get_inputs()}
        if list(inputs) != [spec.name]:
            raise SessionError(f"the model's inputs are {sorted(inputs)}, the card describes ['{spec.name}']")
        kind, shape = inputs[spec.name]
        if kind != _INPUT_TYPES[spec.dtype] or not _fits(shape[1:], spec.graph_shape):
            wanted = _INPUT_TYPES[spec.dtype][7:-1]
            raise SessionError(
                f"the model's input is {kind} {shape}, the card says {wanted} (N, {list(spec.graph_shape)})"
            )
        if isinstance(shape[0], int) and shape[0] != 1 and shape[0] != spec.batch:
            raise SessionError(
                f"the model's input has a fixed batch of {shape[0]} (allowed: 1, or a dynamic batch "
                f"dimension, or as the card's input.batch)"
            )
        kinds = _OUTPUT_TYPES if card.schema_version > 1 else _OUTPUT_TYPES[:1]
        outputs = {node.name: (node.type, node.shape) for node in self._session.get_outputs()}
        for name, output_shape in card.output_shapes.items():
            graph_name = card.output_name(name)
            if graph_name not in outputs:
                raise SessionError(
                    f"the model has no output '{graph_name}'; its outputs are {sorted(outputs)}"
                )
            kind, shape = outputs[graph_name]
            allowed = (*kinds, *_INTEGER_TYPES) if name in INTEGER_OUTPUTS else kinds
            if kind not in allowed or not _fits(shape[1:], output_shape):
                given = (kind, tuple(shape[1:]))
                raise SessionError(f"output '{graph_name}' is {given}, the card says float {output_shape}")


def _fits(shape: Sequence[int | str | None], expected: Sequence[int]) -> bool:
    """Return whether a graph's shape allows the `expected` one; symbolic and missing sides allow any."""
    return len(shape) == len(expected) and all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(shape, expected, strict=True)
    )


def _batched(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Return an output's shape in the graph, and whether to flatten it, e.g. logits (1000, 1, 1)."""
    return shape, name != "features" and len(shape) > 1


def output_problem(
    name: str, value: object, expected: tuple[int, ...], kind: np.dtype[Any] = _FLOAT32
) -> str | None:
    """Return the problem of an output, or None if it is finite and of the `expected` shape and type."""
    if not isinstance(value, np.ndarray):
        return f"output '{name}' is a {type(value).__name__}, the card says one tensor"
    if value.dtype != kind or value.shape != expected:
        return f"output '{name}' is {value.dtype} {value.shape}, the card says {kind} {expected}"
    finite = np.isfinite(value)
    if finite.all():
        return None
    return f"output '{name}' is not finite: {value.size - np.count_nonzero(finite)} of {value.size} values"


def unbatched_outputs(card: Card) -> frozenset[str]:
    """Return the outputs of a detector whose first dimension is the number of boxes, not of images."""
    decoder = None if card.detection is None else card.detection.decoder
    if isinstance(decoder, DecodedBoxes) and decoder.boxes_first:
        return frozenset(card.output_shapes)
    return frozenset({"selected"} if isinstance(decoder, SelectedBoxes) else ())


def _scores_problem(name: str, scores: NDArray[np.float32], activation: ScoreActivation) -> str | None:
    """Return a problem if scores that need no activation are not 0 to 1, else None."""
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
    """Return a problem if `logits`, float32 (N, classes), cannot be outputs of `activation`, else None."""
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


def optimized_graph(content: bytes) -> bytes:
    """Return, as an ONNX file, the graph that ONNX Runtime runs: constants folded, batch norm and QDQ fused.

    The last optimization level is left out, because it only changes the memory layout for this CPU. Raises
    SessionError if the model does not load.
    """
    with tempfile.TemporaryDirectory(prefix="weighin-") as folder:
        path = Path(folder, "optimized.onnx")
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        _load(content, options)
        return path.read_bytes()


def profiled_runs(
    content: bytes,
    runs: int,
    *,
    spec: InputSpec | None = None,
    outputs: Sequence[str] | None = None,
    as_written: bool = False,
) -> list[dict[str, Any]]:
    """Run the model `runs` times on one image of noise and return the events of ONNX Runtime's profile.

    Each event of category `Node` is one run of one operator: `name`, `dur` in whole microseconds, and in
    `args` its `op_name`, `node_index`, `input_type_shape` and `output_type_shape`. `spec` describes the
    input; without it, inputs must be float and have a fixed shape, except for the batch. `outputs`: names of
    the outputs to compute, by default the first. With `as_written`, weights are not prepacked and the memory
    layout is not optimized. Raises SessionError if the model does not load or run.
    """
    with tempfile.TemporaryDirectory(prefix="weighin-") as folder:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = _load(content, options)
        random = np.random.default_rng(0)
        feed = {
            node.name: random.normal(0, 1, [d if isinstance(d, int) else 1 for d in node.shape]).astype("f4")
            for node in session.get_inputs()
        }
        if spec is not None:
            noise = random.normal(0, 1, (spec.batch or 1, spec.channels, spec.height, spec.width))
            feed = {spec.name: graph_input(np.abs(noise).astype(np.float32), spec)}
        output_names = [session.get_outputs()[0].name] if outputs is None else list(outputs)
        try:
            for _ in range(runs):
                session.run(output_names, feed)
        except Exception as error:
            raise SessionError(
                f"ONNX Runtime {RUNTIME_VERSION} cannot run the model: {runtime_words(error)}"
            ) from error
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
        return events


def open_graph(content: bytes) -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    """Open an ONNX file of the service itself and return a thread-safe function that runs it."""
    session, options = _load(content, _options()), _run_options()
    return lambda feeds: session.run(None, feeds, options)


def run_as_written(content: bytes, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, Any]]:
    """Run an ONNX file once on each of `feeds`, without a card, and return the outputs of each run by name.

    Raises SessionError if the file does not load or run.
    """
    session = _load(content, _options())
    names = [node.name for node in session.get_outputs()]
    try:
        return [
            dict(zip(names, session.run(names, dict(feed), _run_options()), strict=True)) for feed in feeds
        ]
    except Exception as error:
        raise SessionError(f"ONNX Runtime {RUNTIME_VERSION} cannot run it: {runtime_words(error)}") from error


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    return options


def _limited(seconds: float) -> tuple[onnxruntime.RunOptions, threading.Timer]:
    """Return options of one run, and the timer that stops it at its next operator."""
    options = _run_options()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    return options, timer


def _options(*, threads: int = 1, spinning: bool = False) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # Files in ONNX Runtime's own format could refer to other files without a check.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = _FATAL_ONLY
    return options


@functools.cache
def _share_memory() -> None:
    """Let all sessions of this process take memory from one arena.

    With an arena per session, every model would keep the memory of its largest run, although each core runs
    at most one model at a time.
    """
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        ),
        None,
    )


def check_self_contained(content: bytes) -> None:
    """Raise SessionError, with the file names, if an ONNX file stores tensors in other files.

    The card's checksum does not cover them, and a runtime that loads bytes searches the working directory.
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


def _load(content: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    check_self_contained(content)
    try:
        session = onnxruntime.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises a dozen types of its own, all meaning the same here
        words = what_it_is(content) or runtime_words(error)
        raise SessionError(f"ONNX Runtime {RUNTIME_VERSION} cannot load the model: {words}") from error
    # onnxruntime's Python wrapper keeps the file's content, to open the session again on other hardware.
    # That never happens here, and the content of the zoo's six models takes 93 MB.
    session._model_bytes = None
    return session
