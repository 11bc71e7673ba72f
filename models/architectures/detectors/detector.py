"""Base class of the object detectors, with the interface that export and profiling use."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Detector(nn.Module):
    """Images (N, input_channels, height, width) -> one tensor (N, ...) for each of `outputs`.

    `input_size` is (height, width) in pixels. The outputs are raw: a decoder (`detection` in the card) makes
    boxes of them.
    """

    outputs: ClassVar[tuple[str, ...]]
    input_size: ClassVar[tuple[int, int]]
    input_channels: ClassVar[int] = 3
