"""External data is found wherever an ONNX file can hold a tensor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.onnx_tools.inspect import UnreadableModel, external_files, output_activation, without_weights

ROOT = Path(__file__).resolve().parents[3]


def outside(location: str = "weights/model.onnx.data", name: str = "w") -> TensorProto:
    """A tensor of ten floats that are kept in another file."""
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[10], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", "0"), ("length", "40")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside(name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.zeros(10, np.float32), name)


def graph(*tensors: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [10])
    return helper.make_graph(nodes or [], "location", [], [value], list(tensors))


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, indices=inside("indices"), dims=[10])


def initializer(tensor: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph(tensor))


def sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.graph.sparse_initializer.append(sparse(tensor))
    return model


def attribute(tensor: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph(nodes=[helper.make_node("Constant", [], ["logits"], value=tensor)]))


def sparse_attribute(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["logits"], sparse_value=sparse(tensor))
    return helper.make_model(graph(nodes=[node]))


def list_of_tensors(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Custom", [], ["logits"], many=[inside(), tensor])
    return helper.make_model(graph(nodes=[node]))


def subgraph(tensor: TensorProto) -> onnx.ModelProto:
    inner = helper.make_node("If", ["c"], ["x"], then_branch=graph(tensor), else_branch=graph(inside()))
    outer = helper.make_node("If", ["c"], ["y"], then_branch=graph(nodes=[inner]), else_branch=graph())
    return helper.make_model(graph(nodes=[outer]))


def function(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    own = helper.make_function("local", "F", [], ["y"], [node], [helper.make_opsetid("", 18)])
    return helper.make_model(graph(), functions=[own])


def training(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add().initialization.CopyFrom(graph(tensor))
    return model


HOLDERS = [
    initializer,
    sparse_initializer,
    attribute,
    sparse_attribute,
    list_of_tensors,
    subgraph,
    function,
    training,
]


@pytest.mark.parametrize("holder", HOLDERS)
def test_external_data_in_every_field(holder: Callable[[TensorProto], onnx.ModelProto]) -> None:
    assert external_files(holder(outside()).SerializeToString()) == ("model.onnx.data",)
    assert external_files(holder(inside()).SerializeToString()) == ()


WORDS = np.frombuffer(b"location" * 1000, np.float32)
"""Weights whose bytes spell a name."""


@pytest.mark.parametrize("holder", HOLDERS)
def test_weights_are_left_out_and_all_else_stays(holder: Callable[[TensorProto], onnx.ModelProto]) -> None:
    model = holder(outside("here.bin"))
    weights = numpy_helper.from_array(WORDS, "words")
    model.graph.initializer.extend((weights, inside("small"), weights))
    content = model.SerializeToString()
    assert external_files(content) == ("here.bin",)
    assert content.count(b"location") == without_weights(content).count(b"location") + 2000
    assert len(content) - len(without_weights(content)) == 2 * WORDS.nbytes


def test_weights_outside_of_the_initializers_stay() -> None:
    content = attribute(numpy_helper.from_array(WORDS, "words")).SerializeToString()
    assert without_weights(content) == content


def test_content_that_is_not_a_valid_message_stays_whole() -> None:
    content = initializer(numpy_helper.from_array(WORDS, "words")).SerializeToString()
    assert len(without_weights(content)) < len(content)
    for damaged in (content[:-1], content + b"\x3a", content + b"\x03", content + b"\xff" * 12, b"location"):
        assert without_weights(damaged) == damaged


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("w.bin", "w.bin"),
        ("/etc/passwd", "passwd"),
        ("../../w.bin", "w.bin"),
        ("C:\\models\\w.bin", "w.bin"),
        ("folder/", "folder"),
        ("", "(no name)"),
        ("*/_ORT_MEM_ADDR_/*", "_ORT_MEM_ADDR_"),
        ("x" * 300, "x" * 80),
    ],
)
def test_base_names_of_external_files(location: str, name: str) -> None:
    assert external_files(initializer(outside(location)).SerializeToString()) == (name,)


def test_each_file_is_named_once_in_order() -> None:
    model = helper.make_model(graph(outside("b", "1"), outside("a", "2"), outside("b", "3")))
    assert external_files(model.SerializeToString()) == ("a", "b")


def test_external_data_without_data_location() -> None:
    """Readers differ in what they take for external."""
    tensor = outside()
    tensor.ClearField("data_location")
    assert external_files(initializer(tensor).SerializeToString()) == ("model.onnx.data",)


def test_bytes_that_cannot_be_parsed_are_refused() -> None:
    content = initializer(outside()).SerializeToString()
    with pytest.raises(UnreadableModel, match="cannot be parsed"):
        external_files(content[:-3])
    with pytest.raises(UnreadableModel, match="cannot be parsed"):
        external_files(b"<script>window.location = '/'</script>")


@pytest.mark.slow
def test_a_file_without_external_data_is_not_parsed() -> None:
    """The onnx package, 12 MB in memory, is imported when a file may have some."""
    program = (
        "import sys\nfrom models.onnx_tools.inspect import external_files\n"
        "external_files(b'no such word')\nassert 'onnx' not in sys.modules\n"
        "import service.inference.session\nassert not {'onnx', 'torch'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def ending_in(*operators: str) -> bytes:
    """A network whose last operators are these."""
    names = ["image", *(f"t{number}" for number in range(len(operators) - 1)), "logits"]
    nodes = [
        helper.make_node(op, [names[number]], [names[number + 1]]) for number, op in enumerate(operators)
    ]
    return bytes(helper.make_model(graph(nodes=nodes)).SerializeToString())


@pytest.mark.parametrize(
    ("operators", "activation"),
    [
        (["Gemm"], "none"),
        (["Softmax"], "softmax"),
        (["Sigmoid"], "sigmoid"),
        (["HardSigmoid"], "none"),
        (["LogSoftmax"], "none"),  # its softmax is that of the logits
        (["Softmax", "Reshape", "Identity"], "softmax"),
        (["Softmax", "QuantizeLinear", "DequantizeLinear"], "softmax"),
        (["QLinearSigmoid", "DequantizeLinear"], "sigmoid"),
        (["Sigmoid", "Conv", "Gemm"], "none"),
        (["Softmax", "Mul"], "none"),
    ],
)
def test_activation_of_the_last_operator(operators: list[str], activation: str) -> None:
    assert output_activation(ending_in(*operators), "logits") == activation


def test_activation_of_a_missing_output() -> None:
    assert output_activation(ending_in("Softmax"), "embedding") == "none"
    nodes = [
        helper.make_node("Identity", ["logits"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["other"]),
    ]
    assert output_activation(helper.make_model(graph(nodes=nodes)).SerializeToString(), "logits") == "none"
