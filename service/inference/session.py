"""ONNX Runtime: load, check, run and profile models. Only this module imports onnxruntime."""

from __future__ import annotations

import functools
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.onnx_tools.file_kind import what_it_is
from models.zoo.card import Card, InputSpec
from models.zoo.preprocess import graph_input
from service.inference.runtime_errors import runtime_words
from service.inference.runtimes.base import (
    INTEGER_OUTPUTS,
    RuntimeName,
    Session,
    SessionError,
    check_self_contained,
)

RUNTIME_VERSION: str = onnxruntime.__version__
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
_INTEGER_TYPES = ("tensor(int64)", "tensor(int32)")
_INPUT_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
SESSION_OPTIONS: dict[str, str] = {
    "execution_mode": "sequential",
    "allow_spinning": "0",
    "provider": "CPUExecutionProvider",
}
"""Options of every session. Benchmarks record them."""

# ONNX Runtime would write errors to standard error in its own format. This is off: the service logs failures.
_FATAL_ONLY = 4


class OnnxSession(Session):
    """Session of ONNX Runtime. It can compute every output of the card."""

    runtime: ClassVar[RuntimeName] = "onnxruntime"

    def __init__(
        self,
        content: bytes,
        card: Card,
        *,
        threads: int = 1,
        spinning: bool = False,
    ) -> None:
        """Load the `content` of an ONNX file.

        Raises SessionError if it does not load, or differs from `card`. `threads` (number of threads per run)
        and `spinning` (whether idle threads busy-wait for work) are for benchmarks only.
        """
        super().__init__(card, tuple(card.output_shapes))
        self._session = _load(content, _options(threads=threads, spinning=spinning))
        self._plain = (self._input.layout, self._input.dtype, self._input.batch) == ("nchw", "float32", None)
        try:
            self._check(card)
        except UnicodeDecodeError as error:
            raise SessionError(
                f"the model's inputs or outputs have names that are not UTF-8: {error}"
            ) from None
        self._run_options = _run_options()

    @property
    def precision(self) -> str:
        """The precision that the card states."""
        return self._card_precision

    def _compute(self, image: NDArray[np.float32], names: list[str], limit_s: float | None) -> list[Any]:
        """Run the network. A run that takes longer than `limit_s` stops at the next operator."""
        options, timer = (self._run_options, None) if limit_s is None else _limited(limit_s)
        try:
            return self._run_graph(image, names, options)
        except Exception as error:  # onnxruntime raises a dozen types of its own, and MemoryError
            reason = f"ONNX Runtime {RUNTIME_VERSION} cannot run it: {runtime_words(error)}"
            if options.terminate:
                reason = f"a run takes longer than {limit_s:g} s"
            raise self._failed(reason) from error
        finally:
            if timer is not None:
                timer.cancel()

    def _run_graph(
        self, image: NDArray[np.float32], names: list[str], options: onnxruntime.RunOptions
    ) -> list[Any]:
        if self._plain:
            values: list[Any] = self._session.run(names, {self._input.name: image}, options)
            return values

        def run(batch: NDArray[Any]) -> list[Any]:
            outputs: list[Any] = self._session.run(names, {self._input.name: batch}, options)
            return outputs

        return self._in_batches(image, names, self._input.batch or len(image), run)

    def release_memory(self, image: NDArray[np.float32]) -> None:
        """Run the network on `image`, and give the memory that is then unused back to the system.

        Raises the errors of ONNX Runtime.
        """
        options = _run_options()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._run_graph(image, [self._names[name] for name in self._main], options)

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
    """Return whether a graph's shape allows the `expected` one.

    A side of the graph's shape that is symbolic or missing allows any size.
    """
    return len(shape) == len(expected) and all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(shape, expected, strict=True)
    )


def optimized_graph(content: bytes) -> bytes:
    """Return the graph that ONNX Runtime runs, as an ONNX file.

    In this graph, constants are folded. Batch norms, and pairs of QuantizeLinear and DequantizeLinear, are
    fused with other operators where ONNX Runtime can do so.

    The highest optimization level is not applied, because it only changes the memory layout for this CPU.
    Raises SessionError if the model does not load.
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
    input; if it is None, inputs must be float and have a fixed shape, except for the batch. `outputs`: names
    of the outputs to compute, by default only the first one. With `as_written`, weights are not prepacked and
    the memory layout is not optimized. Raises SessionError if the model does not load or run.
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
    """Open an ONNX file that is part of the service, and return a thread-safe function that runs it."""
    session, options = _load(content, _options()), _run_options()
    return lambda feeds: session.run(None, feeds, options)


def run_as_written(content: bytes, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, Any]]:
    """Run an ONNX file once on each of `feeds`, and return the outputs of each run by name.

    The file needs no card. Raises SessionError if it does not load or run.
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
    """Return the options of a run, and a timer that stops the run at its next operator after `seconds`."""
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
    # Only ONNX: files in ONNX Runtime's own format could refer to other files, which nothing checks.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = _FATAL_ONLY
    return options


@functools.cache
def _share_memory() -> None:
    """Let all sessions of this process take memory from one arena.

    If each session had its own arena, every model would keep the memory of its largest run, although each
    core runs at most one model at a time.
    """
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        ),
        None,
    )


def _load(content: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    check_self_contained(content)
    try:
        session = onnxruntime.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises a dozen types of its own; all are handled alike here
        words = what_it_is(content) or runtime_words(error)
        raise SessionError(f"ONNX Runtime {RUNTIME_VERSION} cannot load the model: {words}") from error
    # onnxruntime's Python wrapper keeps the file's content, in case it must open the session again on other
    # hardware. This never happens here, and the content of the zoo's six models takes 93 MB.
    session._model_bytes = None
    return session
