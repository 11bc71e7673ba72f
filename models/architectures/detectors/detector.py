"""Base class of the object detectors, with the interface that export and profiling use."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Detector(nn.Module):
    """Object detector, which maps images (N, input_channels, height, width) to several tensors (N, ...).

    `outputs` are the names of these tensors. `input_size` is (height, width) in pixels. The outputs are raw:
    a decoder (`detection` in the card) makes boxes of them.
    """

    outputs: ClassVar[tuple[str, ...]]
    input_size: ClassVar[tuple[int, int]]
    input_channels: ClassVar[int] = 3
