"""What an ONNX file says of itself, held against cards and against counts by hand."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.onnx_tools.describe import TensorInfo, describe, image_layout
from models.onnx_tools.inspect import UnreadableModel
from models.onnx_tools.macs import multiply_accumulates
from models.zoo.card import read_card
from models.zoo.files import NETWORKS
from tests.models.onnx_tools.graphs import (
    CHANNELS,
    CLASSES,
    FLATTEN,
    GEMM,
    POOL,
    SIDE,
    chain,
    model,
    parsed,
    random,
    run,
)

ROOT = Path(__file__).resolve().parents[3]
CONV_MACS = CHANNELS * SIDE * SIDE * 3 * 9
HEAD_MACS = CHANNELS * CLASSES
CONV_PARAMETERS = CHANNELS * 28
HEAD_PARAMETERS = CLASSES * (CHANNELS + 1)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in NETWORKS.glob("*/card.json")))
def test_facts_of_a_network_of_the_zoo_are_its_card(name: str) -> None:
    card = read_card(NETWORKS / name)
    facts = describe((NETWORKS / name / card.file.name).read_bytes())
    assert facts.macs == card.macs
    assert (facts.opset, facts.initializer_elements) == (card.file.opset, card.file.initializer_elements)
    assert facts.precision == card.precision
    assert facts.inputs == (TensorInfo("image", "float32", ("N", *card.input.graph_shape)),)
    assert {output.name: output.shape[1:] for output in facts.outputs} == card.output_shapes
    # Batch norm is folded: its scale and shift of each channel became one bias, so some are missing.
    assert 0.97 * card.parameters < facts.parameters < card.parameters


def test_a_small_network_is_described() -> None:
    content = chain(POOL, FLATTEN, GEMM, producer_name="tests", producer_version="1")
    with_metadata = parsed(content)
    with_metadata.metadata_props.add(key="names", value="{0: 'cat'}")
    facts = describe(with_metadata.SerializeToString())
    assert facts.inputs == (TensorInfo("image", "float32", ("N", 3, SIDE, SIDE)),)
    assert facts.outputs == (TensorInfo("logits", "float32", (None, CLASSES)),)
    assert (facts.opset, facts.ir_version, facts.producer) == (17, 8, "tests 1")
    assert facts.parameters == facts.initializer_elements == CONV_PARAMETERS + HEAD_PARAMETERS
    assert facts.macs == CONV_MACS + HEAD_MACS
    assert (facts.precision, facts.custom_domains) == ("fp32", ())
    assert facts.metadata == {"names": "{0: 'cat'}"}


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    facts = describe(chain(POOL, FLATTEN, GEMM, opset=9, ir=3, as_inputs=True))
    assert [value.name for value in facts.inputs] == ["image"]
    assert (facts.opset, facts.macs) == (9, CONV_MACS + HEAD_MACS)


def test_free_sizes_are_those_given() -> None:
    content = chain(POOL, FLATTEN, GEMM, image=("N", 3, "h", None))
    assert describe(content).macs is None
    facts = describe(content, (16, 4))
    assert facts.macs == CHANNELS * 16 * 4 * 27 + HEAD_MACS
    assert facts.inputs[0].shape == ("N", 3, "h", None)


def test_free_sizes_of_channels_last_are_those_given() -> None:
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "k"], ["logits"], pads=[1] * 4),
    ]
    content = model(nodes, image=(None, None, None, 3))
    facts = describe(content, (4, 16))
    assert facts.macs == CHANNELS * 4 * 16 * 27
    assert facts.outputs[0].shape == (None, CHANNELS, 4, 16)


def test_pads_that_the_graph_computes_are_known() -> None:
    """As torch's older exporter writes pads, of constants alone."""
    weights = {"four": np.array([4]), "pads": np.array([0, 0, 1, 1])}
    nodes = [
        helper.make_node("ConstantOfShape", ["four"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], ["before"], to=TensorProto.INT64),
        helper.make_node("Concat", ["before", "pads"], ["all"], axis=0),
        helper.make_node("Pad", ["image", "all"], ["padded"]),
        helper.make_node("Conv", ["padded", "k"], ["logits"], pads=[1] * 4),
    ]
    assert describe(model(nodes, weights=weights)).macs == CHANNELS * (SIDE + 1) ** 2 * 27


def test_free_channels_are_those_given() -> None:
    """As Optimum exports: all sides are free, and the shape of the image is computed with."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Reshape", ["image", "shape"], ["same"]),
        helper.make_node("Conv", ["same", "k"], ["logits"], pads=[1] * 4),
    ]
    content = model(nodes, image=("N", "c", "h", "w"))
    assert describe(content, (16, 4)).macs is None
    assert describe(content, (3, 16, 4)).macs == CHANNELS * 16 * 4 * 27
    last = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        *nodes[:1],
        helper.make_node("Gather", ["shape", "places"], ["moved"]),
        helper.make_node("Reshape", ["t", "moved"], ["same"]),
        *nodes[2:],
    ]
    content = model(last, image=("N", "h", "w", "c"), weights={"places": np.array([0, 3, 1, 2])})
    assert describe(content, (16, 4, 3)).macs == CHANNELS * 16 * 4 * 27


def test_a_fixed_batch_is_counted_as_one_image() -> None:
    assert describe(chain(POOL, FLATTEN, GEMM, image=(4, 3, SIDE, SIDE))).macs == CONV_MACS + HEAD_MACS


Case = tuple[list[onnx.NodeProto], dict[str, NDArray[Any]], int, int]
LAYERS: dict[str, Case] = {
    "grouped convolution": (
        [helper.make_node("Conv", ["image", "g"], ["logits"], group=3, kernel_shape=[3, 3])],
        {"g": random(6, 1, 3, 3)},
        6 * 6 * 6 * 9,
        54,
    ),
    "transposed convolution": (
        [helper.make_node("ConvTranspose", ["image", "t"], ["logits"], strides=[2, 2])],
        {"t": random(3, 4, 2, 2)},
        3 * SIDE * SIDE * 4 * 4,
        48,
    ),
    "matrix product of many": (
        [helper.make_node("MatMul", ["image", "m"], ["logits"])],
        {"m": random(SIDE, 7)},
        3 * SIDE * SIDE * 7,
        56,
    ),
    "product of two activations": (
        [
            helper.make_node("Transpose", ["image"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["image", "t"], ["logits"]),
        ],
        {},
        3 * SIDE**3,
        0,
    ),
    "product with a vector": (
        [helper.make_node("MatMul", ["image", "v"], ["logits"])],
        {"v": random(SIDE)},
        3 * SIDE * SIDE,
        SIDE,
    ),
    "batch norm": (
        [helper.make_node("BatchNormalization", ["image", "s", "o", "mean", "var"], ["logits"])],
        {name: np.ones(3, np.float32) for name in ("s", "o", "mean", "var")},
        0,
        6,
    ),
    "scale and positions, single numbers": (
        [
            helper.make_node("Mul", ["image", "s"], ["a"]),
            helper.make_node("Add", ["a", "p"], ["c"]),
            helper.make_node("Add", ["c", "one"], ["logits"]),
        ],
        {"s": random(3, 1, 1), "p": random(1, 3, SIDE, SIDE), "one": np.ones(1, np.float32)},
        0,
        3 + 3 * SIDE * SIDE,
    ),
    "constant node": (
        [
            helper.make_node(
                "Constant", [], ["c"], value=helper.make_tensor("c", 1, [2, 3, 1, 1], [1.0] * 6)
            ),
            helper.make_node("Conv", ["image", "c"], ["logits"]),
        ],
        {},
        2 * 3 * SIDE * SIDE,
        6,
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_is_counted(case: str) -> None:
    nodes, weights, macs, parameters = LAYERS[case]
    facts = describe(model(nodes, weights=weights))
    assert (facts.macs, facts.parameters) == (macs, parameters)


def quantized(weight: str = "q", *, of_inputs: bool = True) -> bytes:
    """A convolution in QDQ form; of its weights only unless `of_inputs`."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", [weight, "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd" if of_inputs else "image", "wd"], ["logits"]),
    ]
    return model(nodes, weights=INTEGERS)


INTEGERS: dict[str, NDArray[Any]] = {
    "s": np.array(0.1, np.float32),
    "z": np.array(0, np.uint8),
    "q": np.ones((4, 3, 1, 1), np.int8),
    "ws": np.array(0.1, np.float32),
    "wz": np.array(0, np.int8),
    "qb": np.ones(4, np.int32),
}


def test_dequantized_weights_are_int8() -> None:
    facts = describe(quantized())
    assert (facts.precision, facts.parameters, facts.macs) == ("int8", 12, 12 * SIDE * SIDE)


def test_weights_that_are_only_stored_as_integers_are_not_int8() -> None:
    facts = describe(quantized(of_inputs=False))
    assert (facts.precision, facts.parameters) == ("fp32", 12)


def test_integer_operators_of_onnx_and_the_runtime_are_counted() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["xq"]),
        helper.make_node("QLinearConv", ["xq", "s", "z", "q", "ws", "wz", "s", "z", "qb"], ["c"]),
        helper.make_node(
            "QLinearGlobalAveragePool", ["c", "s", "z", "s", "z"], ["p"], domain="com.microsoft"
        ),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node(
            "QGemm", ["f", "s", "z", "g", "ws", "wz", "gb", "s", "z"], ["y"], domain="com.microsoft", transB=1
        ),
        helper.make_node("DequantizeLinear", ["y", "s", "z"], ["logits"]),
    ]
    weights = INTEGERS | {"g": np.ones((5, 4), np.int8), "gb": np.ones(5, np.int32)}
    facts = describe(model(nodes, weights=weights, domains=["com.microsoft"]))
    assert facts.precision == "int8"
    assert facts.custom_domains == ("com.microsoft",)
    assert facts.parameters == 12 + 4 + 20 + 5
    assert facts.macs == 12 * SIDE * SIDE + 20


def test_half_precision_is_told_by_the_weights() -> None:
    halves = {
        name: random(*shape).astype(np.float16) for name, shape in {"k": (6, 3, 3, 3), "kb": (6,)}.items()
    }
    nodes = [helper.make_node("Conv", ["image", "k", "kb"], ["logits"])]
    facts = describe(model(nodes, weights=halves, kind=TensorProto.FLOAT16))
    assert facts.precision == "fp16"
    assert facts.inputs[0].dtype == "float16"


def test_operators_out_of_order_are_counted() -> None:
    unordered = parsed(chain(POOL, FLATTEN, GEMM))
    nodes = list(reversed(unordered.graph.node))
    del unordered.graph.node[:]
    unordered.graph.node.extend(nodes)
    assert describe(unordered.SerializeToString()).macs == CONV_MACS + HEAD_MACS


def test_shapes_that_the_graph_computes_are_known() -> None:
    """A shuffle of channels as torch's older exporter writes it, with a free batch."""
    numbers = {"zero": 0, "one": 1, "two": 2}
    weights: dict[str, NDArray[Any]] = {name: np.array(value) for name, value in numbers.items()}
    weights |= {"first": np.array([0]), "sides": np.array([SIDE, SIDE]), "two1": np.array([2])}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["map"], pads=[1] * 4),
        helper.make_node("Shape", ["map"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Gather", ["shape", "one"], ["c"]),
        helper.make_node("Div", ["c", "two"], ["half"]),
        *(helper.make_node("Unsqueeze", [name, "first"], [f"{name}1"]) for name in ("n", "half", "c")),
        helper.make_node("Concat", ["n1", "two1", "half1", "sides"], ["split"], axis=0),
        helper.make_node("Reshape", ["map", "split"], ["groups"]),
        helper.make_node("Transpose", ["groups"], ["turned"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Concat", ["n1", "c1", "sides"], ["joined"], axis=0),
        helper.make_node("Reshape", ["turned", "joined"], ["shuffled"]),
        helper.make_node("Conv", ["shuffled", "w11"], ["logits"]),
    ]
    content = model(nodes, weights=weights)
    run(content, ["logits"], images=2)
    facts = describe(content)
    assert facts.macs == CONV_MACS + HEAD_MACS * SIDE * SIDE
    assert facts.outputs[0].shape == (None, CLASSES, SIDE, SIDE)


@pytest.mark.parametrize("op", ["ConstantOfShape", "Max", "Where"])
def test_a_shape_computation_that_would_be_huge_is_left_out(op: str) -> None:
    weights: dict[str, NDArray[Any]] = {
        f"v{axis}": np.ones([256 if side == axis else 1 for side in range(5)], np.int64) for axis in range(5)
    }
    weights["yes"] = np.ones((256, 1, 1, 1, 1), bool)
    weights["big"] = np.array([2**20, 2**20])
    inputs = {"ConstantOfShape": ["big"], "Max": [f"v{n}" for n in range(5)], "Where": ["yes", "v1", "v2"]}[
        op
    ]
    nodes = [
        helper.make_node("Shape", ["image"], ["s"]),
        helper.make_node(op, inputs, ["huge"]),
        helper.make_node("Conv", ["image", "k"], ["logits"], pads=[1] * 4),
    ]
    assert describe(model(nodes, weights=weights)).macs == CONV_MACS


def test_layers_in_functions_are_counted() -> None:
    body = [helper.make_node("Conv", ["x", "k"], ["y"], pads=[1] * 4)]
    layer = helper.make_function("own", "Layer", ["x", "k"], ["y"], body, [helper.make_opsetid("", 17)])
    foreign = helper.make_function(
        "own",
        "Other",
        ["x"],
        ["y"],
        [helper.make_node("Strange", ["x"], ["y"], domain="else")],
        [helper.make_opsetid("else", 1)],
    )
    nodes = [helper.make_node("Layer", ["image", "k"], ["logits"], domain="own")]
    facts = describe(model(nodes, domains=["own"], functions=[layer, foreign]))
    assert (facts.macs, facts.parameters) == (CONV_MACS, CHANNELS * 27)
    assert facts.custom_domains == ("else",)


def test_what_a_foreign_operator_costs_is_not_known() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("Strange", ["c"], ["logits"], domain="else"),
    ]
    facts = describe(model(nodes, domains=["else"]))
    assert (facts.macs, facts.custom_domains) == (None, ("else",))


def test_layers_in_branches_are_not_counted_but_have_parameters() -> None:
    branch = helper.make_graph(
        [helper.make_node("Conv", ["image", "k"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("k", TensorProto.FLOAT, [2, 3, 1, 1], [1.0] * 6)],
    )
    nodes = [helper.make_node("If", ["c"], ["logits"], then_branch=branch, else_branch=branch)]
    facts = describe(model(nodes, weights={"c": np.array(True)}))
    assert (facts.macs, facts.parameters) == (None, 6)


def test_a_function_that_calls_itself_is_refused() -> None:
    body = [helper.make_node("Layer", ["x"], ["y"], domain="own")]
    layer = helper.make_function("own", "Layer", ["x"], ["y"], body, [helper.make_opsetid("own", 1)])
    nodes = [helper.make_node("Layer", ["image"], ["logits"], domain="own")]
    with pytest.raises(UnreadableModel, match="calls itself"):
        describe(model(nodes, domains=["own"], functions=[layer]))


def test_functions_that_multiply_without_end_are_refused() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", "F0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)
    ]
    for level in range(1, 12):
        names = ["x", *(f"v{number}" for number in range(9)), "y"]
        body = [
            helper.make_node(f"F{level - 1}", [taken], [made], domain="own")
            for taken, made in itertools.pairwise(names)
        ]
        functions.append(helper.make_function("own", f"F{level}", ["x"], ["y"], body, opsets))
    nodes = [helper.make_node("F11", ["image"], ["logits"], domain="own")]
    with pytest.raises(UnreadableModel, match="more than 200000 operators"):
        describe(model(nodes, domains=["own"], functions=functions))


def test_operators_in_a_circle_are_refused() -> None:
    nodes = [helper.make_node("Add", ["image", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(UnreadableModel, match="needs its own output"):
        describe(model(nodes))


def test_outputs_that_are_no_tensors_are_named() -> None:
    content = parsed(chain(POOL, FLATTEN, GEMM))
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
    mapping = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    content.graph.output.append(helper.make_value_info("boxes", sequence))
    content.graph.output.append(helper.make_value_info("by_class", mapping))
    facts = describe(content.SerializeToString())
    assert [output.dtype for output in facts.outputs] == ["float32", "sequence", "map"]


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (("N", 3, 224, 224), "nchw"),
        ((1, 1, 28, 28), "nchw"),
        ((None, 224, 224, 3), "nhwc"),
        ((8, "h", "w", 1), "nhwc"),
        ((1, 3, "h", "w"), "nchw"),
        ((1, 3, 224, 3), None),
        ((1, None, None, None), None),
        ((1, 12, 14, 14), None),
        ((3, 224, 224), None),
        ((), None),
    ],
)
def test_the_layout_of_an_image(shape: tuple[int | str | None, ...], layout: str | None) -> None:
    assert image_layout(shape) == layout


def test_operators_without_arithmetic_cost_nothing() -> None:
    assert multiply_accumulates("Relu", [(1, 3)], (1, 3)) == 0
    assert multiply_accumulates("Conv", [(1, 3)], (1, 3)) == 0


@pytest.mark.slow
def test_neither_onnx_nor_torch_is_loaded_before_it_is_needed() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; "
        "import models.onnx_tools.describe, models.onnx_tools.prepare; assert 'onnx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"<html>", b"\xff" * 50])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(UnreadableModel):
        describe(content)


@pytest.mark.parametrize("text", [b"logits", b"image", b"Gemm", b"map"])
def test_a_text_that_is_not_utf_8_is_damage(text: bytes) -> None:
    content = chain(POOL, FLATTEN, GEMM).replace(text, b"\xff" * len(text))
    with pytest.raises(UnreadableModel, match="a text in it is not UTF-8"):
        describe(content)
