"""A detector whose outputs are not what its card says is not served, or its run fails with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.zoo.card import Card
from service.errors import ModelUnavailable
from service.inference.loading import load_model
from service.inference.runtimes.base import SessionError
from service.inference.session import OnnxSession
from tests.helpers.detectors import DECODERS, save_detector
from tests.helpers.networks import put_file


def changed(folder: Path, **outputs: onnx.NodeProto) -> Path:
    """Replace the node that makes an output."""
    model = onnx.load(folder / "model.onnx")
    for name, node in outputs.items():
        (old,) = [node for node in model.graph.node if name in node.output]
        model.graph.node.remove(old)
        model.graph.node.append(node)
    put_file(folder, model)
    return folder


@pytest.mark.parametrize("kind", DECODERS)
def test_every_kind_is_served(tmp_path: Path, kind: str) -> None:
    model = load_model(save_detector(tmp_path, kind=kind))
    assert model.decoder is not None
    assert set(model.card.main_outputs) == set(model.card.output_shapes)
    assert model.typical_ns > 0


FAULTS: dict[str, tuple[str, dict[str, onnx.NodeProto], str]] = {
    "an output of another shape": (
        "decoded-boxes",
        {"boxes": helper.make_node("Transpose", ["all boxes"], ["boxes"], perm=[0, 2, 1])},
        r"output 'boxes' is \('tensor\(float\)', \(4, 256\)\), the card says float \(256, 4\)",
    ),
    "not finite": (
        "centre-points",
        {"size": helper.make_node("Div", ["no size", "zero"], ["size"])},
        r"output 'size' is not finite: 512 of 512 values",
    ),
    "scores beyond 1": (
        "decoded-boxes",
        {"scores": helper.make_node("Add", ["per box", "ten"], ["scores"])},
        r"output 'scores' has values from 10 to 10, but scores are 0 to 1 "
        r"\(detection.decoder.activation in card.json: none, sigmoid or softmax\)",
    ),
    "fewer classes than boxes": (
        "boxes-first",
        {"classes": helper.make_node("Identity", ["ids of it"], ["classes"])},
        r"outputs have different numbers of boxes: 'boxes' \d+, 'classes' 256, 'scores' \d+",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_outputs_that_contradict_the_card(tmp_path: Path, fault: str) -> None:
    kind, nodes, reason = FAULTS[fault]
    folder = save_detector(tmp_path, kind=kind)
    if fault == "not finite":
        model = onnx.load(folder / "model.onnx")
        zeros = [helper.make_node("Conv", ["grid", "pick", "none"], ["no size"])]
        model.graph.node.extend(zeros)
        put_file(folder, model)
    changed(folder, **nodes)
    with pytest.raises(ModelUnavailable, match=reason):
        load_model(folder)


def test_graph_without_an_output(tmp_path: Path) -> None:
    folder = save_detector(tmp_path, "broken", "decoded-boxes")
    model = onnx.load(folder / "model.onnx")
    del model.graph.output[0]
    put_file(folder, model)
    with pytest.raises(
        ModelUnavailable, match=r"the model has no output 'boxes'; its outputs are \['scores'\]"
    ):
        load_model(folder)


def test_half_precision_and_other_names(tmp_path: Path) -> None:
    """Class ids may be integers, scores half precision; names may differ."""
    folder = save_detector(tmp_path, kind="one-class-a-box")
    model = onnx.load(folder / "model.onnx")
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["scores"], ["half scores"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.INT64),
        ]
    )
    for value in model.graph.output:
        if value.name == "scores":
            value.CopyFrom(helper.make_tensor_value_info("half scores", TensorProto.FLOAT16, ["N", 256]))
        elif value.name == "classes":
            value.CopyFrom(helper.make_tensor_value_info("labels", TensorProto.INT64, ["N", 256]))
    put_file(folder, model)
    card = json.loads((folder / "card.json").read_text())
    card["outputs"]["names"] = {"scores": "half scores", "classes": "labels"}
    (folder / "card.json").write_text(json.dumps(card))
    served = load_model(folder)
    outputs = served.session.run(np.zeros((1, 3, 64, 64), np.float32), served.card.main_outputs)
    assert outputs["classes"].dtype == outputs["scores"].dtype == np.float32


@pytest.mark.parametrize("kind", ["selected-boxes", "boxes-first"])
def test_outputs_without_a_batch(tmp_path: Path, kind: str) -> None:
    """They get a batch dimension of 1, and a batch of two images is refused."""
    folder = save_detector(tmp_path, kind=kind)
    served = load_model(folder)
    image = np.zeros((1, 3, 64, 64), np.float32)
    image[0, 0, :4, :4] = 1
    name = "selected" if kind == "selected-boxes" else "boxes"
    assert served.session.run(image, (name,))[name].shape == (1, 1, 3 if kind == "selected-boxes" else 4)
    with pytest.raises(ValueError, match="2 images"):
        served.session.run(np.concatenate((image, image)), (name,))


def test_outputs_that_the_card_does_not_have(tmp_path: Path) -> None:
    """A fault of the caller: the model is not reported as failing."""
    served = load_model(save_detector(tmp_path))
    with pytest.raises(ValueError, match=r"outputs: 'logits' \(allowed: heatmap, "):
        served.session.run(np.zeros((1, 3, 64, 64), np.float32), ("logits",))
    assert served.session.failure is None


def test_fixed_batch(tmp_path: Path) -> None:
    """A graph with a batch of 3 gets the image three times; boxes selected in the others are left out."""
    folder = save_detector(tmp_path, kind="selected-boxes")
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    put_file(folder, model)
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    card["input"]["batch"] = 3
    (folder / "card.json").write_text(json.dumps(card))
    served = load_model(folder)
    image = np.zeros((1, 3, 64, 64), np.float32)
    image[0, 1, 8:12, 8:12] = 1
    outputs = served.session.run(image, served.card.main_outputs)
    assert outputs["selected"].shape == (1, 3, 3)
    assert served.decoder is not None
    found = served.decoder.decode({name: value[0] for name, value in outputs.items()}, 0.5, 100)
    assert found.boxes.tolist() == [[4, 4, 16, 16]]
    assert found.class_ids.tolist() == [1]


def test_wrong_type_of_indices(tmp_path: Path) -> None:
    folder = save_detector(tmp_path, kind="centre-points")
    card = Card.model_validate_json((folder / "card.json").read_text())
    model = onnx.load(folder / "model.onnx")
    model.graph.node.append(helper.make_node("Cast", ["heatmap"], ["flags"], to=TensorProto.BOOL))
    for value in model.graph.output:
        if value.name == "heatmap":
            value.CopyFrom(helper.make_tensor_value_info("flags", TensorProto.BOOL, ["N", 3, 16, 16]))
    outputs = {**card.outputs, "names": {"heatmap": "flags"}}
    described = Card.model_validate(card.model_dump() | {"outputs": outputs})
    with pytest.raises(SessionError, match="tensor\\(bool\\)"):
        OnnxSession(model.SerializeToString(), described)
