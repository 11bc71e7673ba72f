"""ONNX Runtime: a model file as something that runs, and nothing else in the service imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.zoo.card import Card

RUNTIME_VERSION: str = onnxruntime.__version__
INPUT = "image"

# ONNX Runtime's own warnings (e.g. about unused initializers of a user's model) say nothing to our users.
_ERRORS_ONLY = 3


class SessionError(Exception):
    """The file cannot be served: the message says what differs from the card, without paths."""


class OnnxSession:
    """One model, ready to run on one thread at a time per call; calls from several threads may overlap.

    Every run uses the calling thread alone: concurrency comes from several requests, one per core, which
    measured better than several threads on one image (see docs/measurement.md).
    """

    def __init__(self, content: bytes, card: Card) -> None:
        """Load an ONNX file's `content`. SessionError when it does not load or differs from `card`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                content, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen types of its own, all meaning the same here
            raise SessionError(f"ONNX Runtime {RUNTIME_VERSION} cannot load the model") from error
        # onnxruntime's Python wrapper keeps the file's content to make the session anew on other hardware,
        # which never happens here: 93 MB for the six models of the zoo.
        self._session._model_bytes = None
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
