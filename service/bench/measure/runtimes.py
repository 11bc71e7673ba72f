"""Runtimes of benchmarks, ONNX Runtime and OpenVINO, behind one function. The only importer of OpenVINO."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Card
from service.bench.bundle import RuntimeName
from service.errors import InvalidParameter, ModelUnavailable
from service.inference.runtime_errors import runtime_words
from service.inference.session import (
    INTEGER_OUTPUTS,
    RUNTIME_VERSION,
    SESSION_OPTIONS,
    OnnxSession,
    check_self_contained,
    output_problem,
    unbatched_outputs,
)

Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
"""Function from an image, float32 (1, C, H, W), to the card's main outputs by name, as `OnnxSession.run`
returns them: `logits`, float32 (1, classes), or what a detector's decoder reads. Thread-safe."""

OPENVINO_OPTIONS = {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
"""The hint is f32, because by default OpenVINO computes in bf16 on CPUs with bf16: results would differ."""

INSTALL_OPENVINO = ".venv/bin/pip install 'openvino>=2026.4'"


def check_runtime(name: RuntimeName) -> None:
    """Raise InvalidParameter, with the command to install it, if the runtime is not installed."""
    if name == "openvino" and importlib.util.find_spec("openvino") is None:
        raise InvalidParameter(f"runtime 'openvino': not installed (install it with: {INSTALL_OPENVINO})")


def import_runtime(name: RuntimeName) -> None:
    """Import the runtime, which is otherwise imported when a model is opened."""
    if name == "openvino":
        importlib.import_module("openvino")


def runtime_version(name: RuntimeName) -> str:
    """Return the installed version."""
    return RUNTIME_VERSION if name == "onnxruntime" else importlib.metadata.version(name)


def session_options(name: RuntimeName) -> dict[str, str]:
    """Return the options of the runtime's sessions, without threads, with keys prefixed by the runtime."""
    options = SESSION_OPTIONS if name == "onnxruntime" else OPENVINO_OPTIONS
    return {f"{name}.{key}": value for key, value in options.items()}


def open_model(name: RuntimeName, content: bytes, card: Card, threads: int) -> Run:
    """Load an ONNX file's `content` for runs of `threads` threads each.

    Raises SessionError or ModelUnavailable if the runtime cannot load it, and InvalidParameter if the runtime
    is not installed. Runs raise ModelUnavailable if they fail or their output differs from the card.
    """
    check_runtime(name)
    if name == "openvino":
        return _open_in_openvino(content, card, threads)
    session = OnnxSession(content, card, threads=threads)
    outputs = card.main_outputs

    def run(image: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        return session.run(image, outputs)

    return run


def _open_in_openvino(content: bytes, card: Card, threads: int) -> Run:
    openvino = importlib.import_module("openvino")
    check_self_contained(content)
    shape = [1, card.input.channels, card.input.height, card.input.width]
    try:
        core = openvino.Core()
        model = core.read_model(content, b"")
        # One image, and only the main outputs, as with ONNX Runtime.
        outputs = [model.output(card.output_name(name)) for name in card.main_outputs]
        network = openvino.Model(outputs, model.get_parameters(), card.name)
        network.reshape(shape)
        options = OPENVINO_OPTIONS | {"INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(network, "CPU", options)
    except Exception as error:
        raise ModelUnavailable(f"OpenVINO cannot load model '{card.name}': {runtime_words(error)}") from error
    unbatched = unbatched_outputs(card)
    checked = [name for name in card.main_outputs if name not in unbatched and name not in INTEGER_OUTPUTS]
    own = threading.local()  # an inference request serves one thread at a time

    def run(image: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        request = getattr(own, "request", None)
        if request is None:
            request = own.request = compiled.create_infer_request()
        try:
            request.infer([image], share_inputs=True, share_outputs=True)
            values = [request.get_output_tensor(index).data.copy() for index in range(len(outputs))]
        except Exception as error:
            raise ModelUnavailable(
                f"OpenVINO cannot run model '{card.name}': {runtime_words(error)}"
            ) from error
        results = dict(zip(card.main_outputs, values, strict=True))
        for name in checked:
            problem = output_problem(name, results[name], (len(image), *card.output_shapes[name]))
            if problem is not None:
                raise ModelUnavailable(f"model '{card.name}' failed: {problem}")
        return {name: value[None] if name in unbatched else value for name, value in results.items()}

    return run
