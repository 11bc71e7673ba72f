"""Foreign ONNX files become files to serve, and compute what they computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.onnx_tools.inspect import UnreadableModel
from models.onnx_tools.prepare import Prepared, prepare
from models.zoo.card import read_card
from models.zoo.files import NETWORKS
from tests.models.onnx_tools.graphs import (
    CHANNELS,
    CLASSES,
    FLATTEN,
    GEMM,
    POOL,
    SIDE,
    WEIGHTS,
    Step,
    chain,
    model,
    parsed,
    random,
    run,
)

MEAN: Step = ("ReduceMean", [], {"axes": [2, 3], "keepdims": 0})
MATMUL: Step = ("MatMul", ["wt"], {})
SQUEEZE: Step = ("Squeeze", ["places"], {})
HEADS: dict[str, tuple[list[Step], dict[str, Any]]] = {
    "Gemm": ([POOL, FLATTEN, GEMM], {}),
    "Gemm that is not transposed": ([POOL, FLATTEN, ("Gemm", ["wt", "b"], {})], {}),
    "Gemm with factors": ([POOL, FLATTEN, ("Gemm", ["wt", "b"], {"alpha": 0.5, "beta": 2.0})], {}),
    "Gemm without a bias": ([POOL, FLATTEN, ("Gemm", ["w"], {"transB": 1})], {}),
    "Gemm with a single bias": ([POOL, FLATTEN, ("Gemm", ["wt", "one"], {})], {}),
    "product and sum": ([MEAN, MATMUL, ("Add", ["b"], {})], {}),
    "two sums": ([MEAN, MATMUL, ("Add", ["b"], {}), ("Add", ["one"], {})], {}),
    "convolution": ([POOL, ("Conv", ["w11", "b"], {}), FLATTEN], {}),
    "convolution with a sum": ([POOL, ("Conv", ["w11"], {}), ("Add", ["b11"], {}), SQUEEZE], {}),
    "classes moved to the end": (
        [
            POOL,
            ("Conv", ["w11", "b"], {}),
            ("Transpose", [], {"perm": [0, 2, 3, 1]}),
            ("Squeeze", ["middle"], {}),
        ],
        {},
    ),
    "reshaped": ([POOL, ("Reshape", ["flat"], {}), GEMM], {}),
    "squeezed": ([POOL, SQUEEZE, GEMM], {}),
    "average pooling of the whole map": (
        [("AveragePool", [], {"kernel_shape": [SIDE] * 2}), FLATTEN, GEMM],
        {},
    ),
    "dropout": ([POOL, FLATTEN, ("Dropout", [], {}), GEMM], {}),
    "identities": (
        [POOL, ("Identity", [], {}), FLATTEN, ("Identity", [], {}), GEMM, ("Identity", [], {})],
        {},
    ),
    "softmax": ([POOL, FLATTEN, GEMM, ("Softmax", [], {})], {}),
    "axes as an input": ([("ReduceMean", ["places"], {"keepdims": 0}), GEMM], {"opset": 18}),
    "negative axes": ([("ReduceMean", [], {"axes": [-1, -2], "keepdims": 0}), GEMM], {}),
    "old opset": (
        [POOL, FLATTEN, GEMM],
        {"opset": 9, "ir": 3, "as_inputs": True},
    ),
    "free sizes": ([POOL, FLATTEN, GEMM], {"image": ("N", 3, "h", "w")}),
    "fixed batch": ([POOL, FLATTEN, GEMM], {"image": (2, 3, SIDE, SIDE)}),
}


def made(name: str) -> bytes:
    steps, options = HEADS[name]
    return chain(*steps, **options, weights={"one": np.ones(1, np.float32)})


def assert_same_logits(given: bytes, prepared: Prepared) -> NDArray[np.float32]:
    """Run both files, with the added outputs and without them; return the logits."""
    added = [info.name for info in (prepared.embedding, prepared.features) if info is not None]
    for images in (1, 3):
        expected = run(given, ["logits"], images=images)[0]
        np.testing.assert_array_equal(run(prepared.content, ["logits"], images=images)[0], expected)
        np.testing.assert_array_equal(run(prepared.content, ["logits", *added], images=images)[0], expected)
    return expected


@pytest.mark.parametrize("name", HEADS)
def test_a_linear_head_is_found(name: str) -> None:
    content = made(name)
    onnx.checker.check_model(parsed(content))
    prepared = prepare(content, "logits")
    onnx.checker.check_model(parsed(prepared.content), full_check=True)
    assert prepared.embedding is not None
    assert prepared.features is not None
    assert prepared.head is not None
    assert (prepared.reason, prepared.no_maps) == (None, None)
    assert len(parsed(prepared.content).graph.node) == len(parsed(content).graph.node)
    logits = assert_same_logits(content, prepared)
    embedding, features = run(
        prepared.content, [prepared.embedding.name, prepared.features.name], images=len(logits)
    )
    assert embedding.shape[1:] == prepared.embedding.shape[1:]
    assert np.prod(embedding.shape[1:]) == CHANNELS
    if name != "free sizes":
        assert features.shape[1:] == prepared.features.shape[1:]
    expected = logits
    pooled = embedding.reshape(len(logits), -1)
    for vector in (pooled, features.mean(axis=(2, 3))):
        answer = vector @ prepared.head.weight.T + prepared.head.bias
        if name == "softmax":
            answer = np.exp(answer) / np.exp(answer).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    assert prepared.head.weight.dtype == prepared.head.bias.dtype == np.float32
    assert prepared.head.weight.flags.c_contiguous


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite0-int8", "fashion-fire"])
def test_a_network_of_the_zoo_stays_as_it_is(name: str) -> None:
    content = (NETWORKS / name / "model.onnx").read_bytes()
    prepared = prepare(content, "logits")
    assert (prepared.content, prepared.changes) == (content, ())
    shapes = read_card(NETWORKS / name).output_shapes
    assert prepared.embedding is not None
    assert prepared.features is not None
    assert (prepared.embedding.name, prepared.embedding.shape[1:]) == ("embedding", shapes["embedding"])
    assert (prepared.features.name, prepared.features.shape[1:]) == ("features", shapes["features"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["efficientnet-lite0", "efficientnet-lite0-int8", "fashion-fire", "fashion-inverted-residual-int8"],
)
def test_a_network_of_the_zoo_gets_its_outputs_back(name: str) -> None:
    given = parsed((NETWORKS / name / "model.onnx").read_bytes())
    del given.graph.output[1:]
    content = given.SerializeToString()
    prepared = prepare(content, "logits")
    assert prepared.changes == (
        "output 'embedding' added as embedding",
        "output 'features' added as features",
    )
    assert_same_logits(content, prepared)
    assert prepared.head is not None
    folder = NETWORKS / name
    if (folder / "classifier.npz").exists():
        with np.load(folder / "classifier.npz") as stored:
            np.testing.assert_array_equal(prepared.head.weight, stored["weight"])
            np.testing.assert_array_equal(prepared.head.bias, stored["bias"])


def test_initializers_are_removed_from_the_inputs() -> None:
    prepared = prepare(made("old opset"), "logits")
    given = parsed(prepared.content)
    assert [value.name for value in given.graph.input] == ["image"]
    assert given.ir_version == 4
    assert prepared.changes[:2] == (
        "4 initializers removed from the inputs",
        "IR version 3 raised to 4, which allows that",
    )


def test_a_scaled_twin_of_the_features_is_not_taken() -> None:
    content = chain(POOL, FLATTEN, ("Mul", ["one"], {}), GEMM, weights={"one": np.full(1, 2, np.float32)})
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.features is None
    assert prepared.no_maps == "pooling does not lead straight to the last linear layer: Mul is between"
    assert_same_logits(content, prepared)


REASONS: dict[str, tuple[bytes, str]] = {
    "pooling last": (
        chain(("Conv", ["w11"], {}), POOL, FLATTEN),
        "no linear layer before the logits: last operator is GlobalAveragePool",
    ),
    "convolution over a map": (
        chain(("Conv", ["w11"], {}), ("Reshape", ["one_row"], {}), weights={"one_row": np.array([0, 320])}),
        "the last linear layer has 5 outputs, an image has 320 logits",
    ),
    "no layer": (
        model([helper.make_node("Identity", ["image"], ["logits"])]),
        "they are an input or a constant",
    ),
    "two activations": (
        model(
            [
                helper.make_node("Flatten", ["image"], ["a"]),
                helper.make_node("Relu", ["a"], ["r"]),
                helper.make_node("Transpose", ["r"], ["c"], perm=[1, 0]),
                helper.make_node("MatMul", ["r", "c"], ["logits"]),
            ]
        ),
        "the product of two activations",
    ),
    "sum of two": (
        model(
            [helper.make_node("Relu", ["image"], ["a"]), helper.make_node("Add", ["image", "a"], ["logits"])]
        ),
        "the sum of two activations",
    ),
    "layer of the image itself": (
        model([helper.make_node("Gemm", ["image", "w"], ["logits"], transB=1)], image=("N", CHANNELS)),
        "takes the input of the graph",
    ),
    "addition behind softmax": (
        chain(POOL, FLATTEN, GEMM, ("Softmax", [], {}), ("Add", ["b"], {})),
        "last operator is Softmax",
    ),
    "transposed": (
        chain(
            POOL,
            ("Squeeze", ["all"], {}),
            ("Gemm", ["x"], {"transA": 1}),
            weights={"all": np.array([0, 3]), "x": random(CHANNELS, 2)},
            image=(1, 3, SIDE, SIDE),
        ),
        "takes its input transposed",
    ),
    "layer of each place": (
        chain(("Transpose", [], {"perm": [0, 2, 3, 1]}), MATMUL, ("Flatten", [], {})),
        "has 5 outputs, an image has 320 logits",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_without_an_embedding_is_said(case: str) -> None:
    content, words = REASONS[case]
    prepared = prepare(content, "logits")
    assert prepared.content == content
    assert prepared.changes == ()
    assert (prepared.embedding, prepared.features, prepared.head) == (None, None, None)
    assert prepared.reason is not None
    assert words in prepared.reason


NO_MAPS: dict[str, tuple[list[Step], str]] = {
    "activation between": ([POOL, ("HardSigmoid", [], {}), FLATTEN, GEMM], "HardSigmoid is between"),
    "maximum": ([("GlobalMaxPool", [], {}), FLATTEN, GEMM], "GlobalMaxPool is between"),
    "channels last": (
        [
            ("Transpose", [], {"perm": [0, 2, 3, 1]}),
            ("ReduceMean", [], {"axes": [1, 2], "keepdims": 0}),
            GEMM,
        ],
        "channels last",
    ),
    "no pooling": ([("Slice", ["start", "end", "axes"], {}), FLATTEN, GEMM], "Slice is between"),
    "logarithms": ([POOL, FLATTEN, GEMM, ("LogSoftmax", [], {})], "logarithms of probabilities"),
    "quantized logits": (
        [POOL, FLATTEN, GEMM, ("QuantizeLinear", ["s", "z"], {}), ("DequantizeLinear", ["s", "z"], {})],
        "the logits are quantized",
    ),
    "quantized pooling": (
        [POOL, ("QuantizeLinear", ["s", "z"], {}), ("DequantizeLinear", ["s", "z"], {}), FLATTEN, GEMM],
        "values are quantized between pooling and the last linear layer",
    ),
}


@pytest.mark.parametrize("case", NO_MAPS)
def test_the_reason_without_maps_is_said(case: str) -> None:
    steps, words = NO_MAPS[case]
    more: dict[str, NDArray[Any]] = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "start": np.array([0, 0]),
        "end": np.array([1, 1]),
        "axes": np.array([2, 3]),
    }
    content = chain(*steps, weights=more)
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.features is None
    assert prepared.no_maps is not None
    assert words in prepared.no_maps
    assert_same_logits(content, prepared)


def test_integer_weights_are_dequantized() -> None:
    quantized = np.random.default_rng(4).integers(-127, 128, (CLASSES, CHANNELS)).astype(np.int8)
    scales = np.linspace(0.01, 0.05, CLASSES).astype(np.float32)
    weights: dict[str, NDArray[Any]] = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "wq": quantized,
        "ws": scales,
        "wz": np.zeros(CLASSES, np.int8),
        "bq": np.arange(CLASSES, dtype=np.int32),
        "bs": scales * np.float32(0.05),
        "bz": np.zeros(CLASSES, np.int32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["fq"]),
        helper.make_node("DequantizeLinear", ["fq", "s", "z"], ["fd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Gemm", ["fd", "wd", "bd"], ["logits"], transB=1),
    ]
    content = model(nodes, weights=weights)
    prepared = prepare(content, "logits")
    assert prepared.head is not None
    np.testing.assert_allclose(prepared.head.weight, quantized * scales[:, None], rtol=1e-6)
    np.testing.assert_allclose(prepared.head.bias, np.arange(CLASSES) * scales * 0.05, rtol=1e-6)
    assert prepared.embedding is not None
    logits = assert_same_logits(content, prepared)
    embedding = run(prepared.content, [prepared.embedding.name], images=len(logits))[0]
    np.testing.assert_allclose(
        embedding @ prepared.head.weight.T + prepared.head.bias, logits, rtol=1e-4, atol=1e-5
    )


def test_weights_that_are_cast_transposed_and_quantized_are_followed() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Identity", ["w.half"], ["w1"]),
        helper.make_node("Cast", ["w1"], ["w2"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["w2", "ws", "wz"], ["w3"], axis=0),
        helper.make_node("DequantizeLinear", ["w3", "ws", "wz"], ["w4"], axis=0),
        helper.make_node("Reshape", ["w4", "rows"], ["w5"]),
        helper.make_node("Transpose", ["w5"], ["w6"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "w6"], ["y"]),
        helper.make_node("Identity", ["b"], ["b1"]),
        helper.make_node("Add", ["b1", "y"], ["logits"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "w.half": WEIGHTS["w"].astype(np.float16),
        "ws": np.linspace(0.01, 0.05, CLASSES).astype(np.float32),
        "wz": np.arange(CLASSES, dtype=np.int8),
        "rows": np.array([0, -1]),
    }
    content = model(nodes, weights=weights)
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.head is not None
    logits = assert_same_logits(content, prepared)
    embedding = run(prepared.content, [prepared.embedding.name], images=len(logits))[0]
    answer = embedding @ prepared.head.weight.T + prepared.head.bias
    np.testing.assert_allclose(answer, logits, rtol=1e-4, atol=1e-5)


def integer_head(op: str) -> bytes:
    """A head of the operators with integers that ONNX Runtime's quantization writes."""
    weights: dict[str, NDArray[Any]] = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "ws": np.array(0.01, np.float32),
        "wz": np.array(0, np.int8),
        "wq": np.arange(CLASSES * CHANNELS, dtype=np.int8).reshape(CLASSES, CHANNELS),
        "bq": np.arange(CLASSES, dtype=np.int32),
    }
    weights["wq.t"] = np.ascontiguousarray(weights["wq"].T)
    weights["wq.conv"] = weights["wq"].reshape(CLASSES, CHANNELS, 1, 1)
    ends = ["s", "z"]
    rows = [
        helper.make_node("Conv", ["image", "k"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
    ]
    if op == "dynamic":
        rows += [
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("DynamicQuantizeLinear", ["f"], ["fq", "fs", "fz"]),
            helper.make_node("MatMulInteger", ["fq", "wq.t", "fz", "wz"], ["m"]),
            helper.make_node("Cast", ["m"], ["c"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["fs", "ws"], ["scale"]),
            helper.make_node("Mul", ["c", "scale"], ["y"]),
            helper.make_node("Add", ["y", "b"], ["logits"]),
        ]
        return model(rows, weights=weights)
    rows.append(helper.make_node("QuantizeLinear", ["p", *ends], ["pq"]))
    if op == "QLinearConv":
        rows.append(helper.make_node(op, ["pq", *ends, "wq.conv", "ws", "wz", *ends, "bq"], ["y"]))
        rows.append(helper.make_node("Flatten", ["y"], ["f"]))
    else:
        rows.append(helper.make_node("Flatten", ["pq"], ["fq"]))
        if op == "QGemm":
            inputs = ["fq", *ends, "wq", "ws", "wz", "bq", *ends]
            rows.append(helper.make_node(op, inputs, ["f"], transB=1, domain="com.microsoft"))
        else:
            rows.append(helper.make_node(op, ["fq", *ends, "wq.t", "ws", "wz", *ends], ["f"]))
    rows.append(helper.make_node("DequantizeLinear", ["f", *ends], ["logits"]))
    return model(rows, weights=weights, domains=["com.microsoft"])


@pytest.mark.parametrize("op", ["QGemm", "QLinearMatMul", "QLinearConv", "dynamic"])
def test_a_head_in_integers_gives_a_float_embedding(op: str) -> None:
    content = integer_head(op)
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.embedding.dtype == "float32"
    assert (prepared.head, prepared.no_maps) == (None, "the last linear layer computes in integers")
    assert_same_logits(content, prepared)
    embedding = run(prepared.content, [prepared.embedding.name])[0]
    pooled = parsed(content)
    pooled.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, None))
    expected = run(pooled.SerializeToString(), ["p"])[0].reshape(1, -1)
    np.testing.assert_allclose(embedding.reshape(1, -1), expected, atol=0.026)  # half a step of 0.05


def test_half_precision_differs_by_its_rounding_only() -> None:
    weights = {name: WEIGHTS[name].astype(np.float16) for name in ("k", "kb", "w", "b")}
    content = chain(POOL, FLATTEN, GEMM, weights=weights, kind=TensorProto.FLOAT16)
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.features is not None
    assert prepared.head is not None
    assert (prepared.embedding.dtype, prepared.features.dtype) == ("float16", "float16")
    assert prepared.head.weight.dtype == np.float32
    expected = run(content, ["logits"])[0].astype(np.float32)
    logits, embedding = run(prepared.content, ["logits", prepared.embedding.name])
    np.testing.assert_allclose(logits.astype(np.float32), expected, rtol=2e-3, atol=2e-3)
    answer = embedding.astype(np.float32) @ prepared.head.weight.T + prepared.head.bias
    np.testing.assert_allclose(answer, expected, rtol=4e-3, atol=4e-3)


def test_a_head_in_a_function_is_inlined() -> None:
    opsets = [helper.make_opsetid("", 17)]
    body = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    layer = helper.make_function("own", "Head", ["x", "w", "b"], ["y"], body, opsets)
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Head", ["p", "w", "b"], ["logits"], domain="own"),
    ]
    content = model(nodes, domains=["own"], functions=[layer])
    prepared = prepare(content, "logits")
    assert prepared.changes[0] == "1 function inlined"
    assert prepared.embedding is not None
    assert prepared.features is not None
    assert_same_logits(content, prepared)


def test_functions_that_are_not_in_the_way_stay() -> None:
    opsets = [helper.make_opsetid("", 17)]
    layer = helper.make_function("own", "Act", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("Act", ["c"], ["map"], domain="own"),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], transB=1),
    ]
    prepared = prepare(model(nodes, domains=["own"], functions=[layer]), "logits")
    assert len(parsed(prepared.content).functions) == 1
    assert prepared.features is not None


def test_an_output_with_another_meaning_keeps_its_name() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["map"]),
        helper.make_node("GlobalMaxPool", ["map"], ["embedding"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], transB=1),
    ]
    content = model(nodes, outputs=[("logits", None), ("embedding", None)])
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.embedding.name == "f"


def test_a_name_too_long_for_a_card_is_replaced() -> None:
    long = "f" * 300
    nodes = [
        helper.make_node("GlobalMaxPool", ["image"], ["p"]),
        helper.make_node("Flatten", ["p"], [long]),
        helper.make_node("Gemm", [long, "w3"], ["logits"]),
    ]
    content = model(nodes, weights={"w3": random(3, CLASSES)})
    prepared = prepare(content, "logits")
    assert prepared.embedding is not None
    assert prepared.embedding.name == "embedding"
    assert_same_logits(content, prepared)


def test_weights_that_are_not_finite_make_no_head() -> None:
    steps: list[Step] = [POOL, FLATTEN, ("Gemm", ["w", "b"], {"transB": 1, "alpha": float("inf")})]
    prepared = prepare(chain(*steps, weights={"w": np.zeros_like(WEIGHTS["w"])}), "logits")
    assert prepared.embedding is not None
    assert (prepared.head, prepared.features) == (None, None)
    assert prepared.no_maps == "the weights of the last linear layer are not all finite"


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(UnreadableModel, match=r"no output 'scores' \(allowed: logits\)"):
        prepare(chain(POOL, FLATTEN, GEMM), "scores")
