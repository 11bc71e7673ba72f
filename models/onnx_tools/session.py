"""Run ONNX files with ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_FATAL_ONLY = 4
_OWN_OPERATORS = [
    "GeluFusionL1",
    "LayerNormFusionL1",
    "SimplifiedLayerNormFusion",
    "QuickGeluFusion",
    "BiasGeluFusion",
]
"""Optimizations that may insert operators which only ONNX Runtime or a later opset has."""


def open_session(model: bytes | Path, threads: int = 1, *, optimised: bool = True) -> ort.InferenceSession:
    """Return a CPU session for a model's bytes or file, with `threads` intra-op threads.

    If `optimised` is false, the session runs each operator as the file has it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(
    session: ort.InferenceSession, images: Sequence[NDArray[Any]], output: str = "logits"
) -> NDArray[np.float32]:
    """Run each of `images` alone, as the service does; return the output `output` for all of them, (N, ...).

    `images`: input arrays of the network, each with one image, or with the network's fixed batch size.
    """
    name = session.get_inputs()[0].name
    return np.concatenate([session.run([output], {name: image})[0] for image in images])


def folded(model: bytes) -> bytes:
    """Return an ONNX file that computes the same, with folded batch norms and constants computed beforehand.

    No operators are added that only ONNX Runtime has. Such operators stay if the file has them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = _FATAL_ONLY  # hides the warning that the file suits only this machine
        ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=_OWN_OPERATORS
        )
        return path.read_bytes()
