"""The model that is diagnosed, and what the checks need of it, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.graph import Graph, read_graph
from models.zoo.card import Card
from service.bench.doctor.operators import Operator, measure_operators
from service.bench.measure.runtimes import open_model
from service.bench.measure.subjects import BareSession
from service.inference.session import OnnxSession, optimized_graph


@dataclass(frozen=True)
class ModelUnderTest:
    """A model: its card and the content of its file, which has been checked against the card."""

    card: Card
    content: bytes

    @cached_property
    def graph(self) -> Graph:
        """The graph as the file has it."""
        return read_graph(self.content)

    @cached_property
    def optimized(self) -> Graph:
        """The graph as ONNX Runtime runs it, before it is laid out for this CPU."""
        return read_graph(optimized_graph(self.content))

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """What each operator costs, the most expensive first."""
        return measure_operators(self.content, spec=self.card.input)

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """Noise that the network takes for a preprocessed image, float32 (1, C, H, W)."""
        spec = self.card.input
        shape = (1, spec.channels, spec.height, spec.width)
        return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)

    def subject(self, content: bytes | None = None) -> BareSession:
        """The network, or the same with the weights of `content`, on `image`, as a benchmark runs it."""
        return BareSession(open_model("onnxruntime", content or self.content, self.card, 1), [self.image])

    def session(self, *, threads: int, spinning: bool) -> OnnxSession:
        """A session of the model."""
        return OnnxSession(self.content, self.card, threads=threads, spinning=spinning)
