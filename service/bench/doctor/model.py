"""The model to diagnose, with cached data that the checks use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.graph import Graph, read_graph
from models.zoo.card import Card
from service.bench.doctor.operators import Operator, measure_operators
from service.bench.measure.subjects import BareSession
from service.inference.session import OnnxSession, optimized_graph


@dataclass(frozen=True)
class ModelUnderTest:
    """An object stands for the model to diagnose: its card, and the content of its file.

    The content must be the one that the card describes.
    """

    card: Card
    content: bytes

    @cached_property
    def graph(self) -> Graph:
        """The graph in the file."""
        return read_graph(self.content)

    @cached_property
    def optimized(self) -> Graph:
        """The graph after ONNX Runtime's optimizations.

        Optimizations that adapt the memory layout to this CPU are left out.
        """
        return read_graph(optimized_graph(self.content))

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """Cost of each operator, the most expensive first."""
        names = [self.card.output_name(name) for name in self.card.main_outputs]
        return measure_operators(self.content, spec=self.card.input, outputs=names)

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """Noise in place of a preprocessed image, float32 (1, C, H, W)."""
        spec = self.card.input
        shape = (1, spec.channels, spec.height, spec.width)
        return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)

    def subject(self, content: bytes | None = None) -> BareSession:
        """Return the network as a benchmark runs it, with `image` as its input.

        If `content` is given, this ONNX file is run instead of the model's own file.
        """
        return BareSession(OnnxSession(content or self.content, self.card).run, [self.image])

    def session(self, *, threads: int, spinning: bool) -> OnnxSession:
        """Open a session of the model."""
        return OnnxSession(self.content, self.card, threads=threads, spinning=spinning)
