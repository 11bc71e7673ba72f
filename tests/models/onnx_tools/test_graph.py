"""The reader of ONNX files against the onnx package, and on damaged files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from models.onnx_tools import inspect
from models.onnx_tools.graph import Graph, change_weights, read_graph
from models.onnx_tools.inspect import UnreadableModel
from tests.service.bench.doctor.networks import Network, small


def of(initializers: list[TensorProto], nodes: list[onnx.NodeProto] | None = None) -> Graph:
    graph = helper.make_graph(nodes or [], "g", [], [], initializers)
    return read_graph(helper.make_model(graph).SerializeToString())


ARRAYS = st.sampled_from(["<f4", "<f8", "<f2", "u1", "i1", "<i4", "<i8"]).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=1))
)


@pytest.mark.slow
@given(ARRAYS)
def test_weights_are_what_numpy_helper_reads(array: np.ndarray) -> None:
    weight = of([numpy_helper.from_array(array, "w")]).weights["w"]
    assert weight.shape == array.shape
    assert weight.values is not None
    assert weight.values.dtype == array.dtype
    assert weight.values.tobytes() == array.tobytes()


def test_weights_in_float_data() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, -2.5, 0.0, 1e-40])
    assert not tensor.raw_data
    values = of([tensor]).weights["w"].values
    assert values is not None
    np.testing.assert_array_equal(values, np.array([[1.0, -2.5], [0.0, 1e-40]], np.float32))


def test_weights_without_values() -> None:
    text = helper.make_tensor("t", TensorProto.STRING, [1], [b"x"])
    elsewhere = TensorProto(
        name="e", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    graph = of([text, elsewhere])
    assert graph.weights["t"].values is None
    assert graph.weights["e"].values is None
    assert graph.weights["e"].shape == (3,)


def test_a_constant_node_is_a_weight() -> None:
    value = numpy_helper.from_array(np.arange(3, dtype=np.float32), "inner")
    graph = of([], [helper.make_node("Constant", [], ["c"], value=value)])
    values = graph.weights["c"].values
    assert values is not None
    assert values.tolist() == [0, 1, 2]


def test_nodes_equal_those_of_onnx(tmp_path: Path) -> None:
    content = (small().save(tmp_path, "small") / "model.onnx").read_bytes()
    graph = read_graph(content)
    theirs = onnx.load_from_string(content).graph
    assert [
        (node.name, node.op, node.domain, list(node.inputs), list(node.outputs)) for node in graph.nodes
    ] == [(n.name, n.op_type, n.domain, list(n.input), list(n.output)) for n in theirs.node]
    assert graph.producers["dw"].ints["group"] == 32
    assert [node.name for node in graph.consumers["dw"]] == ["dw.relu"]


def test_only_weights_are_changed(tmp_path: Path) -> None:
    folder = small().save(tmp_path, "small")
    content = (folder / "model.onnx").read_bytes()

    def clear(name: str, values: np.ndarray) -> None:
        if name == "pw1.weight":
            values[...] = 0

    changed = onnx.load_from_string(change_weights(content, clear))
    [tensor] = [weight for weight in changed.graph.initializer if weight.name == "pw1.weight"]
    assert not numpy_helper.to_array(tensor).any()
    original = onnx.load_from_string(content)
    [theirs] = [weight for weight in original.graph.initializer if weight.name == "pw1.weight"]
    tensor.CopyFrom(theirs)
    assert changed == original


def test_constant_node_is_changed() -> None:
    value = numpy_helper.from_array(np.arange(3, dtype=np.float32), "inner")
    graph = helper.make_graph([helper.make_node("Constant", [], ["c"], value=value)], "g", [], [], [])

    def add_one(name: str, values: np.ndarray) -> None:
        assert name == "c"
        values += 1

    changed = change_weights(helper.make_model(graph).SerializeToString(), add_one)
    values = read_graph(changed).weights["c"].values
    assert values is not None
    assert values.tolist() == [1, 2, 3]


@given(st.data())
def test_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    network = Network(input=8)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], group=1)],
        "g",
        [],
        [],
        [numpy_helper.from_array(network.random.normal(size=(4, 3, 1, 1)).astype(np.float32), "w")],
    )
    content = bytearray(helper.make_model(graph).SerializeToString())
    content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableModel):
        read_graph(bytes(content))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(UnreadableModel):
        read_graph(content)


def test_no_graph_is_unreadable() -> None:
    with pytest.raises(UnreadableModel, match="no graph"):
        read_graph(b"")


def test_file_over_the_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "MAX_BYTES", 10)
    with pytest.raises(UnreadableModel, match=r"ONNX file of 11 bytes \(allowed: 10\)"):
        read_graph(bytes(11))


def test_values_that_do_not_fit_the_shape() -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.dims[0] = 5
    with pytest.raises(UnreadableModel, match="tensor 'w' has another number of values than its shape"):
        of([tensor])
