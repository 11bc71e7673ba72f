"""Describe an ONNX file: inputs, outputs, size, cost and precision, without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]
Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph.

    `dtype` is NumPy's name, e.g. float32; `string`, `bfloat16` and the like for types that NumPy has not, and
    `sequence`, `map`, `optional` or `sparse` for what is not a tensor. In `shape`, text is a symbolic size
    and None an unknown one; `()` where there is no shape at all.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class GraphFacts:
    """What an ONNX file says of itself.

    `inputs` are without initializers that are listed as inputs. `parameters` counts the weights and biases of
    linear layers, convolutions and normalizations, dequantized where they are integers. `macs` is for one
    image; None where the shapes cannot be inferred.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    ir_version: int
    producer: str
    custom_domains: tuple[str, ...]
    initializer_elements: int
    parameters: int
    macs: int | None
    precision: Precision
    metadata: Mapping[str, str]


def describe(content: bytes, size: tuple[int, int] | None = None) -> GraphFacts:
    """Return the facts of an ONNX file; `size` is (height, width) where its input leaves them free.

    Raises UnreadableModel for anything else.
    """
    raise NotImplementedError


def image_layout(shape: Sequence[int | str | None]) -> Layout | None:
    """Return which layout an image input's shape, with the batch first, shows; None for both or neither."""
    raise NotImplementedError
