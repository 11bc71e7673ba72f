"""One network as different tools write it: each variant gives the plain one's outputs through its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.zoo.card import Card, read_card, write_card
from models.zoo.preprocess import preprocess
from service.inference.registry import Registry
from service.inference.runtimes.base import SessionError
from service.inference.session import OnnxSession
from tests.helpers.networks import put_file, save_network
from tests.helpers.photographs import astronaut

CLASSES, SIDE = 5, 8


def write(
    zoo: Path,
    *,
    layout: str = "nchw",
    dtype: int = TensorProto.FLOAT,
    batch: int | str = "N",
    name: str = "image",
    background: bool = False,
    sides: bool = False,
    **outputs: Any,
) -> Path:
    """Write `zoo/variant`, one convolution as large as the image, and return its folder."""
    random = np.random.default_rng(1)
    weight = random.normal(0, 1, (CLASSES, 3, SIDE, SIDE)).astype(np.float32) / 1000
    bias = random.normal(0, 1, CLASSES).astype(np.float32)
    if background:
        weight, bias = np.concatenate((weight[:1] * 0, weight)), np.append(np.float32(30), bias)
    half = dtype == TensorProto.FLOAT16
    work = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    tensors = {"w": weight, "b": bias}
    nodes, last = [], name
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [last], ["moved"], perm=[0, 3, 1, 2]))
        last = "moved"
    if dtype == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [last], ["cast"], to=TensorProto.FLOAT))
        last = "cast"
    nodes.append(helper.make_node("Conv", [last, "w", "b"], ["maps"]))
    nodes.append(helper.make_node("Identity" if sides else "Flatten", ["maps"], ["scores:0"]))
    shape = [batch, 3, SIDE, SIDE] if layout == "nchw" else [batch, SIDE, SIDE, 3]
    logits = [len(bias), 1, 1] if sides else [len(bias)]
    graph = helper.make_graph(
        nodes,
        "variant",
        [helper.make_tensor_value_info(name, dtype, shape)],
        [helper.make_tensor_value_info("scores:0", work, [batch, *logits])],
        [
            numpy_helper.from_array(v.astype(np.float16 if half else np.float32), k)
            for k, v in tensors.items()
        ],
    )
    folder = save_network(zoo, "variant", classes=CLASSES)
    card = json.loads((folder / "card.json").read_text())
    kinds = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}
    card["schema_version"] = 2
    card["input"] = {
        "height": SIDE, "width": SIDE, "fitting": "stretch", "mean": [0] * 3, "std": [1] * 3,
        "interpolation": "bilinear", "name": name, "layout": layout, "dtype": kinds[dtype],
        "batch": batch if isinstance(batch, int) else None,
    }  # fmt: skip
    card["outputs"] = {"logits": logits, "names": {"logits": "scores:0"}, **outputs}
    (folder / "card.json").write_text(json.dumps(card))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    put_file(folder, model)
    return folder


def logits_of(folder: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    card = read_card(folder)
    return OnnxSession((folder / "model.onnx").read_bytes(), card).run(images)["logits"]


@pytest.fixture
def images(tmp_path: Path) -> NDArray[np.float32]:
    spec = read_card(write(tmp_path / "images")).input
    return np.concatenate([preprocess(astronaut()[start:], spec) for start in (0, 100, 200)])


@pytest.mark.parametrize(
    "variant",
    [
        {"layout": "nhwc"},
        {"dtype": TensorProto.UINT8},
        {"dtype": TensorProto.UINT8, "layout": "nhwc", "batch": 1},
        {"batch": 2},
        {"batch": 8},
        {"batch": "None"},
        {"name": "input:0"},
        {"sides": True},
        {"background": True, "class_offset": 1},
        {"background": True, "class_offset": 1, "sides": True, "layout": "nhwc", "batch": 2},
        {"dtype": TensorProto.FLOAT16},
    ],
    ids=str,
)
def test_a_variant_gives_the_logits_of_the_plain_network(
    variant: dict[str, Any], tmp_path: Path, images: NDArray[np.float32]
) -> None:
    expected = logits_of(write(tmp_path / "plain"), images)
    logits = logits_of(write(tmp_path / "zoo", **variant), images)
    assert logits.shape == (3, CLASSES)
    assert logits.dtype == np.float32
    tolerance = 1e-2 if variant.get("dtype") == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(logits, expected, atol=tolerance * expected.std())


def test_grey_values_of_uint8_are_rounded(tmp_path: Path) -> None:
    """A network whose only logits are the sums of its pixels, and one picture with a grey of 149.685."""
    folder = write(tmp_path, dtype=TensorProto.UINT8)
    card = read_card(folder)
    session = OnnxSession((folder / "model.onnx").read_bytes(), card)
    grey = np.full((1, 3, SIDE, SIDE), 149.685, np.float32)
    np.testing.assert_array_equal(session.run(grey)["logits"], session.run(np.full_like(grey, 150))["logits"])


def test_a_variant_is_loaded_warmed_up_and_labelled(tmp_path: Path) -> None:
    write(tmp_path, background=True, class_offset=1, layout="nhwc", dtype=TensorProto.UINT8)
    registry = Registry([tmp_path], "variant")
    registry.load()
    model = registry.get()
    assert model.labels == tuple(f"class {number}" for number in range(CLASSES))
    assert model.typical_ns > 0


def test_an_input_that_differs_from_the_card_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, layout="nhwc")
    card = read_card(folder)
    other = card.model_copy(update={"input": card.input.model_copy(update={"layout": "nchw"})})
    with pytest.raises(SessionError, match="the card says"):
        OnnxSession((folder / "model.onnx").read_bytes(), other)


def test_the_background_is_no_class(tmp_path: Path) -> None:
    folder = write(tmp_path, background=True, class_offset=1)
    facts = json.loads((folder / "card.json").read_text())
    del facts["outputs"]["class_offset"]
    with pytest.raises(ValueError, match=r"outputs.logits is \(6,\) for 5 classes and class_offset 0"):
        Card.model_validate(facts)


def test_a_background_that_comes_last_is_no_class_either(tmp_path: Path) -> None:
    folder = write(tmp_path, background=True, class_offset=1)
    content = (folder / "model.onnx").read_bytes()
    first = read_card(folder)
    last = first.model_copy(update={"outputs": {**first.outputs, "class_offset": 0}})
    image = np.random.default_rng(0).normal(0, 1, (2, 3, SIDE, SIDE)).astype(np.float32)
    logits = [OnnxSession(content, card).run(image)["logits"] for card in (first, last)]
    assert logits[0].shape == logits[1].shape == (2, 5)
    np.testing.assert_array_equal(logits[0][:, :-1], logits[1][:, 1:])
    assert Card.model_validate(last.model_dump(exclude_none=True)).class_offset == 0


def test_version_1_is_written_without_later_fields(tmp_path: Path) -> None:
    folder = save_network(tmp_path, "plain")
    card = read_card(folder)
    write_card(folder, card)
    written = json.loads((folder / "card.json").read_text())
    assert written["schema_version"] == 1
    assert not {"format", "given", "provenance"} & written.keys()
    assert not {"name", "layout", "dtype", "fitting", "pad_value"} & written["input"].keys()
    assert read_card(folder) == card
