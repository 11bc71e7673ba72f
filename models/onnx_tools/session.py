"""Run ONNX files with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


def open_session(model: bytes | Path, threads: int = 1) -> ort.InferenceSession:
    """Return a CPU session for a model's bytes or file, with `threads` intra-op threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(
    session: ort.InferenceSession, images: Sequence[NDArray[np.float32]], output: str = "logits"
) -> NDArray[np.float32]:
    """Return one output for every image, (len(images), ...), each run alone as the service does.

    `images`: float32 (1, channels, height, width) each.
    """
    return np.concatenate([session.run([output], {"image": image})[0] for image in images])
