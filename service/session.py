"""ONNX Runtime: a model file as something that runs, and nothing else in the service imports onnxruntime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.zoo.card import Card

RUNTIME_VERSION: str = onnxruntime.__version__
INPUT = "image"
SESSION_OPTIONS: dict[str, str] = {
    "execution_mode": "sequential",
    "allow_spinning": "0",
    "provider": "CPUExecutionProvider",
}
"""What every session is opened with, as measurements record it."""

# ONNX Runtime's own warnings (e.g. about unused initializers of a user's model) say nothing to our users.
_ERRORS_ONLY = 3


class SessionError(Exception):
    """The file cannot be served: the message says what differs from the card, without paths."""


class OnnxSession:
    """One model, ready to run on one thread at a time per call; calls from several threads may overlap.

    When served, every run uses the calling thread alone: concurrency comes from several requests, one per
    core, which measured better than several threads on one image (see docs/measurement.md).
    """

    def __init__(
        self,
        content: bytes,
        card: Card,
        *,
        threads: int = 1,
        spinning: bool = False,
    ) -> None:
        """Load an ONNX file's `content`. SessionError when it does not load or differs from `card`.

        What differs from the defaults is there to be measured: `threads` per run, and `spinning`: whether
        threads wait for work without giving their core back.
        """
        self._session = _load(content, _options(threads=threads, spinning=spinning))
        self._check(card)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _ERRORS_ONLY
        self._shape = (card.input.channels, card.input.height, card.input.width)

    def run(
        self, image: NDArray[np.float32], outputs: Sequence[str] = ("logits",)
    ) -> Mapping[str, NDArray[np.float32]]:
        """Run the network on `image`, float32 (N, C, H, W), and return the `outputs` asked for, batch first.

        Outputs that are not asked for are neither computed nor copied. ValueError for an image of another
        shape or dtype.
        """
        if image.dtype != np.float32 or image.shape[1:] != self._shape:
            raise ValueError(
                f"image is {image.dtype} {image.shape}, the network takes float32 (N, {self._shape})"
            )
        values = self._session.run(list(outputs), {INPUT: image}, self._run_options)
        return dict(zip(outputs, values, strict=True))

    def _check(self, card: Card) -> None:
        inputs = {node.name: (node.type, node.shape) for node in self._session.get_inputs()}
        expected = [card.input.channels, card.input.height, card.input.width]
        if list(inputs) != [INPUT]:
            raise SessionError(f"the model's inputs are {sorted(inputs)}, the card describes ['{INPUT}']")
        kind, shape = inputs[INPUT]
        if kind != "tensor(float)" or list(shape[1:]) != expected:
            raise SessionError(f"the model's input is {kind} {shape}, the card says float (N, {expected})")
        found = {node.name: (node.type, tuple(node.shape[1:])) for node in self._session.get_outputs()}
        for name, output_shape in card.outputs.items():
            if name not in found:
                raise SessionError(f"the model has no output '{name}'; its outputs are {sorted(found)}")
            if found[name] != ("tensor(float)", output_shape):
                raise SessionError(f"output '{name}' is {found[name]}, the card says float {output_shape}")


def optimized_graph(content: bytes) -> bytes:
    """The model as ONNX Runtime runs it, as an ONNX file: constants folded, batch norm and QDQ pairs fused.

    Without the last level, which only lays the same graph out for this CPU. SessionError when it does not
    load.
    """
    with tempfile.TemporaryDirectory(prefix="weighin-") as folder:
        path = Path(folder, "optimized.onnx")
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        _load(content, options)
        return path.read_bytes()


def profiled_runs(content: bytes, runs: int, *, as_written: bool = False) -> list[dict[str, Any]]:
    """Run the model `runs` times on noise, one image, and return ONNX Runtime's profile, event by event.

    Each event of category `Node` is one run of one operator: `name`, `dur` in whole microseconds, and in
    `args` its `op_name`, `node_index`, `input_type_shape` and `output_type_shape`. Only tensors of float and
    fixed shape (but for the batch) can be fed. SessionError when the model does not load.
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
        wanted = [session.get_outputs()[0].name]
        for _ in range(runs):
            session.run(wanted, feed)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
        return events


def _options(*, threads: int = 1, spinning: bool = False) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.log_severity_level = _ERRORS_ONLY
    return options


def _load(content: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        session = onnxruntime.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a dozen types of its own, all meaning the same here
        raise SessionError(f"ONNX Runtime {RUNTIME_VERSION} cannot load the model") from error
    # onnxruntime's Python wrapper keeps the file's content to make the session anew on other hardware,
    # which never happens here: 93 MB for the six models of the zoo.
    session._model_bytes = None
    return session
