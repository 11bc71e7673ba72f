"""The model that is examined, and what the checks ask of it, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Card
from service.bench.doctor.onnx_graph import OnnxGraph, read_graph
from service.bench.doctor.operators import Operator, measure_operators
from service.inference.session import OnnxSession, optimized_graph


@dataclass(frozen=True)
class Patient:
    """A model: its card and the content of its file, which has been checked against the card."""

    card: Card
    content: bytes

    @cached_property
    def graph(self) -> OnnxGraph:
        """The graph as the file has it."""
        return read_graph(self.content)

    @cached_property
    def optimized(self) -> OnnxGraph:
        """The graph as ONNX Runtime runs it, before it is laid out for this CPU."""
        return read_graph(optimized_graph(self.content))

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """What each operator costs, the most expensive first."""
        return measure_operators(self.content)

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """Noise that the network takes for a preprocessed image, float32 (1, C, H, W)."""
        spec = self.card.input
        shape = (1, spec.channels, spec.height, spec.width)
        return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)

    def session(
        self, content: bytes | None = None, *, threads: int = 1, spinning: bool = False
    ) -> OnnxSession:
        """A session of the model, or of `content`: the same model with other weights."""
        return OnnxSession(content or self.content, self.card, threads=threads, spinning=spinning)
