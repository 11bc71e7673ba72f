"""Read the stored linear classifier of a model, the layer between pooling and logits."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from models.zoo.card import File
from models.zoo.files import read_regular

_RETRIES = 4
"""Number of retries after a SystemError. NumPy reads the headers of arrays with Python's parser of literals.
Before Python 3.11.8 and 3.12.2, this parser sometimes raises SystemError if another thread parses at the same
time (CPython issue 106905)."""

log = structlog.get_logger(__name__)


class UnusableHead(Exception):
    """The file of a linear classifier cannot be used. The message gives the reason, without paths."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier, which computes `logits = weight @ pooled + bias`.

    `weight`: float32 (classes, channels). `bias`: float32 (classes,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def class_map(self, features: NDArray[np.float32], class_id: int) -> NDArray[np.float64]:
        """Return how much each place of `features`, float32 (channels, H, W), adds to the logit.

        The map is float64 (H, W). With global average pooling, its mean plus the class's bias is the logit.
        """
        weight = self.weight[class_id].astype(np.float64)
        values: NDArray[np.float64] = np.einsum("c,chw->hw", weight, features.astype(np.float64))
        return values


class HeldFile:
    """A regular file that is held open, so that it can be read even after another file has taken its name."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        weakref.finalize(self, os.close, self._descriptor)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path.name)

    def read(self) -> bytes:
        """Return the content of the whole file. Thread-safe. Raises OSError."""
        pieces = []
        size = 0
        while piece := os.pread(self._descriptor, 1 << 24, size):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)


def read_linear_head(path: Path | HeldFile, file: File, shape: tuple[int, int]) -> LinearHead:
    """Return the classifier in `path`. Raises UnusableHead.

    The file must be the one that a card describes as `file`. Its weight array must have this `shape`.
    """
    try:
        content = path.read() if isinstance(path, HeldFile) else read_regular(path)
    except OSError:
        raise UnusableHead(f"{file.name}: missing or unreadable") from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise UnusableHead(f"{file.name} is not the one that the card describes")
    try:
        for _ in range(_RETRIES):
            with contextlib.suppress(SystemError):
                head = _arrays(content)
                break
        else:
            head = _arrays(content)
    except Exception as error:  # NumPy, zipfile and zlib raise many types for malformed files
        log.warning("classifier cannot be read", file=file.name, reason=repr(error))
        raise UnusableHead(f"{file.name}: no arrays `weight` and `bias`") from None
    if head.weight.shape != shape or head.bias.shape != shape[:1]:
        raise UnusableHead(f"{file.name}: weight of shape {head.weight.shape} (needed: {shape})")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise UnusableHead(f"{file.name}: values not finite")
    return head


def _arrays(content: bytes) -> LinearHead:
    """Return the arrays in an NPZ file. Raises the errors of NumPy, zipfile and zlib."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays, np.errstate(over="ignore"):
        return LinearHead(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))
