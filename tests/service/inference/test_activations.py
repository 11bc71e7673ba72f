"""Networks that end in softmax or sigmoid: what they say is not squashed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper

from service.errors import ModelUnavailable
from service.inference.registry import Registry
from service.settings import Settings
from tests.helpers.networks import LIGHT, Tail, put_file, save_network
from tests.helpers.problems import assert_problem
from tests.service.conftest import running

BIAS = np.zeros(10, np.float32)
BIAS[7] = 9
SOFTMAX = ("Softmax", [], {"axis": 1})
SHAPE = {"shape": np.array([-1, 10], np.int64), "scale": np.array(1 / 255, np.float32)}
SPELT_OUT = {
    "tail": [("Exp", [], {}), ("Div", ["sum"], {})],
    "weights": {"sum": np.array(np.exp(9) + 9, np.float32)},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    zoo = tmp_path_factory.mktemp("zoo")
    same = {"labels": "ten"}
    flat = {"weights": {"head.weight": np.zeros((3, 10), np.float32)}, "bias": BIAS, **same}
    save_network(zoo, "logits", **flat)
    save_network(zoo, "softmax", [SOFTMAX], **flat)
    save_network(zoo, "reshaped", [SOFTMAX, ("Reshape", ["shape"], {})], **with_weights(flat, SHAPE))
    save_network(zoo, "spelt-out", SPELT_OUT["tail"], **with_weights(flat, SPELT_OUT["weights"]))
    save_network(zoo, "sigmoid", [("Sigmoid", [], {})], **flat)
    save_network(zoo, "declared", [SOFTMAX], **flat, outputs={"logits": [10], "activation": "softmax"})
    save_network(zoo, "none", **flat, outputs={"logits": [10], "activation": "none"})
    save_network(
        zoo,
        "several",
        **flat,
        schema_version=2,
        outputs={"logits": [10], "activation": "none", "multi_label": True},
    )
    save_network(
        zoo,
        "one",
        [("Sigmoid", [], {})],
        classes=1,
        bias=np.array([2], np.float32),
        weights={"head.weight": np.zeros((3, 1), np.float32)},
        outputs={"logits": [1], "activation": "sigmoid"},
    )
    settings = Settings(model_dirs=(zoo,), default_model="logits", data_dir=tmp_path_factory.mktemp("data"))
    with running(settings) as client:
        yield client


def with_weights(changes: dict, weights: dict) -> dict:
    return changes | {"weights": changes["weights"] | weights}


TOP = float(np.exp(9) / (np.exp(9) + 9))
EXPECTED = {
    "logits": ("none", TOP),
    "softmax": ("softmax", TOP),
    "reshaped": ("softmax", TOP),
    "spelt-out": ("softmax", TOP),
    "sigmoid": ("sigmoid", 1 / (1 + np.exp(-9))),
    "declared": ("softmax", TOP),
    "none": ("none", TOP),
    "several": ("none", 1 / (1 + np.exp(-9))),
    "one": ("sigmoid", 1 / (1 + np.exp(-2))),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", EXPECTED)
def test_probabilities_of_a_network_with_activation(client: httpx.Client, png: bytes, model: str) -> None:
    activation, probability = EXPECTED[model]
    assert client.get(f"/models/{model}").json()["activation"] == activation
    prediction = client.post(f"/classify?model={model}", content=png).json()["predictions"][0]
    assert prediction["probability"] == pytest.approx(probability, abs=2e-3)
    assert prediction["class_id"] == (0 if model == "one" else 7)


def test_sigmoids_are_each_classes_own(client: httpx.Client, png: bytes) -> None:
    answer = client.post("/classify?model=sigmoid&top_k=10", content=png).json()
    assert [one["probability"] for one in answer["predictions"][1:]] == [0.5] * 9


def test_a_comparison_does_the_same(client: httpx.Client, png: bytes) -> None:
    results = client.post("/compare", content=png).json()["results"]
    assert {one["model"]: one["predictions"][0]["probability"] for one in results} == {
        name: pytest.approx(probability, abs=2e-3)
        for name, (_, probability) in EXPECTED.items()
        if name != "one"
    }


def test_no_exact_map_with_an_activation(client: httpx.Client, png: bytes) -> None:
    answer = client.post("/explain?model=softmax", content=png)
    assert_problem(answer, 409, "no-exact-map", "'softmax'", "applies softmax")


SIGMOID = ("Sigmoid", [], {})
LAST: dict[str, tuple[Tail, str, str]] = {
    "softmax as logits": (
        [SOFTMAX],
        "none",
        "its last operator is softmax, .* says outputs.activation none ",
    ),
    "sigmoid as logits": (
        [SIGMOID],
        "none",
        "its last operator is sigmoid, .* says outputs.activation none ",
    ),
    "softmax as sigmoid": (
        [SOFTMAX],
        "sigmoid",
        "its last operator is softmax, .* says outputs.activation sigmoid ",
    ),
    "sigmoid as softmax": (
        [SIGMOID],
        "softmax",
        "its last operator is sigmoid, .* says outputs.activation softmax ",
    ),
    "softmax and more as logits": ([SOFTMAX, ("Identity", [], {})], "none", "its last operator is softmax"),
    "spelt-out softmax as logits": (SPELT_OUT["tail"], "none", "is a probability distribution"),
    "spelt-out softmax as sigmoid": (SPELT_OUT["tail"], "sigmoid", "is a probability distribution"),
    "spelt-out sigmoid as softmax": (
        [("Neg", [], {}), ("Exp", [], {}), ("Add", ["one"], {}), ("Reciprocal", [], {})],
        "softmax",
        "has the sum 5.5, but softmax over the classes gives 1",
    ),
    "softmax over the batch": ([("Softmax", [], {"axis": 0})], "softmax", "has the sum 10, but softmax"),
    "softmax over the batch, not declared": ([("Softmax", [], {"axis": 0})], "", "has the sum 10, but"),
    "softmax in halves": (
        [("Reshape", ["halves"], {}), ("Softmax", [], {"axis": 2}), ("Reshape", ["shape"], {})],
        "softmax",
        "has the sum 2, but softmax over the classes gives 1",
    ),
}


@pytest.mark.parametrize("network", LAST)
def test_activation_contradicts_the_card(tmp_path: Path, network: str) -> None:
    tail, activation, reason = LAST[network]
    declared = {"activation": activation} if activation else {}
    weights = {
        "head.weight": np.zeros((3, 10), np.float32),
        "one": np.array(1, np.float32),
        "halves": np.array([-1, 2, 5], np.int64),
        **SHAPE,
        **SPELT_OUT["weights"],
    }
    save_network(tmp_path, "liar", tail, weights=weights, bias=BIAS, outputs={"logits": [10], **declared})
    registry = Registry([tmp_path], "liar")
    registry.load()
    with pytest.raises(ModelUnavailable, match=reason):
        registry.get()


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid"])
def test_activation_inside_a_function(tmp_path: Path, activation: str) -> None:
    folder = save_network(tmp_path, "called", [(activation, [], {})], bias=BIAS)
    model = onnx.load(folder / "model.onnx")
    [node] = [node for node in model.graph.node if node.op_type == activation]
    body = [
        helper.make_node("Identity", ["in"], ["copy"]),
        helper.make_node(activation, ["copy"], ["applied"]),
        helper.make_node("Identity", ["applied"], ["out"]),
    ]
    model.functions.append(
        helper.make_function("own", "Head", ["other", "in"], ["out"], body, model.opset_import)
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    node.op_type, node.domain = "Head", "own"
    node.input.insert(0, "image")
    put_file(folder, model)
    registry = Registry([tmp_path], "called")
    registry.load()
    assert registry.get().session.activation == activation.lower()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_declared_activation_is_missing(tmp_path: Path, activation: str) -> None:
    save_network(tmp_path, "liar", bias=BIAS, outputs={"logits": [10], "activation": activation})
    registry = Registry([tmp_path], "liar")
    registry.load()
    with pytest.raises(ModelUnavailable, match=rf"values from .* to .*, but {activation} gives 0 to 1"):
        registry.get()


def test_logits_that_happen_to_be_positive_stay_logits(tmp_path: Path) -> None:
    save_network(tmp_path, "positive", [("Abs", [LIGHT], {})], classes=3)
    registry = Registry([tmp_path], "positive")
    registry.load()
    assert registry.get().session.activation == "none"
