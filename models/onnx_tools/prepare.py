"""Prepare a foreign ONNX file to be served: one file, no weights as inputs, an embedding as output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.describe import TensorInfo


@dataclass(frozen=True)
class Head:
    """The last linear layer: `weight` float32 (classes, channels) and `bias` float32 (classes,).

    A background class keeps its row.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """A file to serve, and what was done to it.

    `content` equals the given file where nothing had to change. `changes` says in words what did. `embedding`
    is the output with the input of the last linear layer, `features` the one with the last feature map where
    global average pooling leads from it to the embedding; they are added, or were there. `head` is the last
    linear layer. `reason` says why there is no embedding.
    """

    content: bytes
    changes: tuple[str, ...]
    embedding: TensorInfo | None
    features: TensorInfo | None
    head: Head | None
    reason: str | None


def consolidate(path: Path) -> bytes:
    """Return the ONNX file at `path` with its external tensors read in.

    They are read only from regular files in the folder of `path`. Raises UnreadableModel, which names what is
    missing or not allowed, and OSError where `path` cannot be read.
    """
    raise NotImplementedError


def prepare(content: bytes, logits: str) -> Prepared:
    """Return the ONNX file `content` with what the service needs; `logits` is the output with the classes.

    All outputs that it had stay bit-identical. Raises UnreadableModel for bytes that are not an ONNX file,
    and for an unknown output.
    """
    raise NotImplementedError
