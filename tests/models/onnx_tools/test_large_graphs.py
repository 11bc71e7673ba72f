"""Graphs of many operators are described in a time that grows with their number, and refused over a limit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from models.onnx_tools.describe import describe
from models.onnx_tools.inspect import MAX_NODES, UnreadableModel, output_activation
from models.onnx_tools.prepare import prepare
from tests.models.onnx_tools.graphs import CLASSES, GEMM, WEIGHTS, model

LONG = 6_000
LIMIT_S = 6.0
"""In a time that grows with the square of their number, these graphs take a minute or more."""


def identities(start: str, count: int, name: str = "i") -> list[NodeProto]:
    """A chain of Identity; its last value is `NAME{count - 1}`."""
    names = [start, *(f"{name}{number}" for number in range(count))]
    return [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]


def taken_at_each_step() -> bytes:
    """Each value of a chain is added to something: where it comes from is asked at each."""
    nodes = identities("image", LONG)
    sums = [helper.make_node("Add", [f"i{number}", f"i{number}"], [f"s{number}"]) for number in range(LONG)]
    return model([*nodes, *sums, helper.make_node("Sigmoid", [f"i{LONG - 1}"], ["logits"])])


def weights_behind_chains() -> bytes:
    """A weight passes many operators, and a product takes it at each."""
    nodes = identities("w", LONG)
    products = [helper.make_node("MatMul", ["image", f"i{number}"], [f"s{number}"]) for number in range(LONG)]
    return model([*nodes, *products, helper.make_node("Sigmoid", ["s0"], ["logits"])])


def long_end() -> bytes:
    """A sigmoid many operators before the output."""
    nodes = [helper.make_node("Sigmoid", ["image"], ["start"]), *identities("start", 5 * LONG)]
    return model([*nodes, helper.make_node("Identity", [f"i{5 * LONG - 1}"], ["logits"])])


def many_outputs() -> bytes:
    """Each value of a chain behind the linear layer's input is an output."""
    op, inputs, attributes = GEMM
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat3"]),
        helper.make_node("MatMul", ["flat3", "w3"], ["flat6"]),
        helper.make_node(op, ["flat6", *inputs], ["logits"], **attributes),
        *identities("flat6", LONG),
    ]
    weights = {"w3": np.ones((3, 6), np.float32)}
    outputs = [("logits", (None, CLASSES)), *((f"i{number}", None) for number in range(0, LONG, 2))]
    return model(nodes, weights=WEIGHTS | weights, outputs=outputs)


TASKS: dict[str, Callable[[], Any]] = {
    "describe, sums": lambda: describe(taken_at_each_step()),
    "describe, products": lambda: describe(weights_behind_chains()),
    "activation": lambda: output_activation(long_end(), "logits"),
    "prepare, outputs": lambda: prepare(many_outputs(), "logits"),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_long_chain_is_described_in_time(task: str) -> None:
    start = time.process_time()
    told = TASKS[task]()
    assert time.process_time() - start < LIMIT_S
    if task == "activation":
        assert told == "sigmoid"
    if task == "describe, products":
        assert told.precision == "fp32"


@pytest.mark.slow
def test_more_operators_than_the_limit_are_refused_without_functions() -> None:
    node = helper.make_node("Relu", ["image"], ["logits"])
    graph = helper.make_graph(
        [node] * (MAX_NODES + 1),
        "many",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
    )
    content = helper.make_model(graph).SerializeToString()
    with pytest.raises(UnreadableModel, match=f"more than {MAX_NODES} operators"):
        describe(content)
    with pytest.raises(UnreadableModel, match=f"more than {MAX_NODES} operators"):
        prepare(content, "logits")
