"""Which layers stay in float, and networks of other tools in the form that quantization takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from models.onnx_tools.choose_plan import choose_plan, groups_of
from models.onnx_tools.quantize import QuantizationPlan, quantized
from models.onnx_tools.segments import classifier_nodes, segments
from models.onnx_tools.session import open_session, run
from models.onnx_tools.simplify import simplify
from tests.models.onnx_tools.graphs import CHANNELS, FLATTEN, GEMM, POOL, chain, model, random
from tests.service.bench.doctor.networks import Network, small


def noise(count: int, *shape: int, seed: int = 0) -> list[NDArray[np.float32]]:
    return list(np.random.default_rng(seed).normal(0, 1, (count, 1, *shape)).astype(np.float32))


def file_of(network: Network, folder: Path) -> bytes:
    return (network.save(folder, "network") / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A network whose first layers lose far more than others: few channels, one much larger."""
    network = Network(input=24)
    network.conv("stem", 8, kernel=3, stride=2)
    network.conv("dw", 8, kernel=3, groups=8)
    for number in range(5):
        network.conv(f"pw{number}", 32)
    # Channels that a range for all of them leaves a step or two; the layer behind makes them equal again.
    factors = np.array([300, 1, 1, 1, 1, 1, 1, 1], np.float32)
    network.weights["stem.weight"] *= factors[:, None, None, None]
    network.weights["dw.weight"] /= factors[:, None, None, None]
    network.weights["pw4.weight"] *= 100
    return file_of(network, tmp_path_factory.mktemp("fragile"))


@pytest.mark.slow
def test_the_layers_that_lose_most_stay_in_float(fragile: bytes) -> None:
    images = noise(48, 3, 24, 24)
    choice = choose_plan(simplify(fragile), images, output="logits")
    assert choice.kept == ("stem", "dw", "pw0")
    assert choice.layers == 7
    assert choice.divergence < 0.5 * choice.everything
    assert choice.trials <= 20
    weights = {tensor.name for tensor in onnx.load_from_string(choice.content).graph.initializer}
    assert {"stem.weight", "pw1.weight_quantized", "head.weight"} <= weights
    plan = QuantizationPlan(("stem", "dw", "pw0"))
    assert choice.content == quantized(simplify(fragile), images, plan), "as with a plan made by hand"


def test_a_network_that_loses_nothing_is_int8_throughout(tmp_path: Path) -> None:
    images = noise(16, 3, 56, 56)
    choice = choose_plan(simplify(file_of(small(), tmp_path)), images, output="logits")
    assert choice.everything < 0.01
    assert choice.kept == ()
    expected = run(open_session(file_of(small(), tmp_path / "again")), images)
    got = run(open_session(choice.content), images)
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


def test_a_network_without_weights_to_quantize_is_refused() -> None:
    pool = helper.make_node("GlobalAveragePool", ["image"], ["pooled"])
    content = model([pool, helper.make_node("Flatten", ["pooled"], ["logits"])])
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        choose_plan(simplify(content), noise(8, 3, 8, 8), output="logits")


def residual() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["image", "k", "kb"], ["first"], pads=[1] * 4),
        helper.make_node("Conv", ["first", "inner"], ["second"]),
        helper.make_node("GlobalAveragePool", ["second"], ["gate"]),
        helper.make_node("Mul", ["second", "gate"], ["gated"]),
        helper.make_node("Add", ["first", "gated"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Gemm", ["vector", "w", "b"], ["logits"], transB=1),
    ]


INNER = {"inner": random(CHANNELS, CHANNELS, 1, 1, seed=5)}


def test_a_residual_block_is_one_segment_and_its_gate_no_classifier() -> None:
    graph = onnx.load_from_string(simplify(model(residual(), weights=INNER))).graph
    parts = [[node.op_type for node in part] for part in segments(graph, "logits")]
    assert parts == [
        ["Conv"], ["Conv", "GlobalAveragePool", "Mul", "Add"], ["GlobalAveragePool"], ["Flatten"], ["Gemm"]
    ]  # fmt: skip
    assert [n.op_type for n in classifier_nodes(graph, "logits")] == ["GlobalAveragePool", "Flatten", "Gemm"]


def test_groups_have_two_layers_but_the_first(fragile: bytes) -> None:
    groups = groups_of(onnx.load_from_string(simplify(fragile)), "logits")
    layers = [sorted(name for name in group.nodes if "relu" not in name) for group in groups]
    assert layers == [["stem"], ["dw", "pw0"], ["pw1", "pw2"], ["pw3", "pw4"]]
    assert sum(group.share for group in groups) == pytest.approx(1, abs=0.01)


def test_a_classifier_without_pooling_is_its_last_layer() -> None:
    steps = [("Flatten", [], {}), ("Gemm", ["big", "b"], {"transB": 1})]
    content = chain(*steps, weights={"big": random(5, CHANNELS * 64)})  # type: ignore[arg-type]
    graph = onnx.load_from_string(simplify(content)).graph
    assert [node.op_type for node in classifier_nodes(graph, "logits")] == ["Gemm"]


def test_simplified_networks_compute_the_same_and_have_what_quantization_needs() -> None:
    norm = {name: np.abs(random(CHANNELS, seed=at)) + 0.5 for at, name in enumerate(("s", "o", "m", "v"))}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["conv"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["conv", "s", "o", "m", "v"], ["normed"]),
        helper.make_node("Conv", ["normed", "inner"], ["second"]),
        helper.make_node("ReduceMean", ["second"], ["pooled"], axes=[2, 3], keepdims=1),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Gemm", ["vector", "w", "b"], ["logits"], transB=1),
    ]
    content = model(nodes, weights=norm | INNER, opset=11, as_inputs=True, ir=3)
    simple = simplify(content)
    images = noise(4, 3, 8, 8)
    expected = run(open_session(content), images)
    np.testing.assert_allclose(run(open_session(simple), images), expected, atol=1e-4)
    graph = onnx.load_from_string(simple)
    assert graph.opset_import[0].version >= 13
    operators = Counter(node.op_type for node in graph.graph.node)
    assert operators["BatchNormalization"] == operators["ReduceMean"] == 0
    assert operators["GlobalAveragePool"] == 1
    names = [node.name for node in graph.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert all(len(node.input) == 3 for node in graph.graph.node if node.op_type == "Conv")


@pytest.mark.parametrize("tail", [(POOL, FLATTEN, GEMM), (("MatMul", ["square"], {}), POOL, FLATTEN, GEMM)])
def test_linear_layers_before_the_last_pooling_become_int8(tail: Any) -> None:
    content = simplify(chain(*tail, weights={"square": random(8, 8, seed=9)}))
    made = onnx.load_from_string(quantized(content, noise(4, 3, 8, 8), QuantizationPlan()))
    weights = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert weights["w"] == onnx.TensorProto.FLOAT
    assert len(tail) == 3 or weights["square_quantized"] == onnx.TensorProto.INT8
