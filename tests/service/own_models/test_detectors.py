"""Detectors from elsewhere: what their outputs hold is recognised, served through the card, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models.zoo.card import Card
from models.zoo.detection import DecodedBoxes, SelectedBoxes
from service.errors import RefusedModel
from service.inference.detect import Found, detect_plan, find_objects
from service.inference.pipeline import load_image
from service.inference.registry import Registry
from service.latency.stages import Stopwatch
from service.own_models.add import Added, Options, add
from tests.helpers.detectors import CLASSES, SIDE, save_detector

PIXELS = {"input.mean": (0.0,) * 3, "input.std": (255.0,) * 3}


def save(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.onnx").write_bytes(content)
    return folder / "network.onnx"


def labelled(folder: Path, names: Sequence[str] = CLASSES) -> Path:
    path = folder / "names.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def added(
    tmp_path: Path, file: Path, names: Sequence[str] = CLASSES, preset: str | None = None, **facts: Any
) -> Added:
    labels = labelled(tmp_path, names) if names else None
    options = Options(name="m", labels=labels, preset=preset, facts={**PIXELS, **facts})
    return add(file, options, to=tmp_path / "zoo")


def found(zoo: Path, name: str) -> tuple[Found, ...]:
    """What a model finds in a picture with a red and a blue square."""
    pixels = np.zeros((SIDE * 2, SIDE * 3, 3), np.uint8)
    pixels[20:44, 30:66, 0] = 255
    pixels[80:104, 120:156, 2] = 255
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    registry = Registry([zoo], name)
    registry.load()
    model = registry.get(name)
    image = load_image(buffer.getvalue(), model.card.input, max_pixels=10**6)
    return find_objects(detect_plan(model), image, Stopwatch())


FACTS: dict[str, dict[str, Any]] = {
    "decoded-boxes": {},
    "one-class-a-box": {"detection.decoder.format": "yxyx"},
    "boxes-first": {"detection.decoder.format": "cxcywh", "detection.decoder.unit": "pixels"},
    "selected-boxes": {"detection.decoder.format": "yxyx"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTS)
def test_an_added_detector_finds_what_its_own_card_does(kind: str, tmp_path: Path) -> None:
    own = save_detector(tmp_path / "own", "own", kind)
    suppression = {} if kind in ("decoded-boxes", "selected-boxes") else {"detection.suppression": "by-class"}
    facts = {**FACTS[kind], "detection.iou": 0.3, **suppression}
    result = added(tmp_path, save(tmp_path / "given", (own / "model.onnx").read_bytes()), **facts)
    expected = found(tmp_path / "own", "own")
    assert {one.label for one in expected} == {"red", "blue"}
    assert found(tmp_path / "zoo", "m") == expected
    assert (result.card.task, result.card.classes) == ("object-detection", 3)
    assert result.card.provenance["detection.decoder.format"].origin in ("flag", "assumed")
    assert result.changes == ()


def test_what_noise_shows_of_boxes_is_no_assumption(tmp_path: Path) -> None:
    own = save_detector(tmp_path / "own", "own", "decoded-boxes")
    card = added(tmp_path, save(tmp_path / "given", (own / "model.onnx").read_bytes())).card
    assert card.detection is not None
    assert card.provenance["detection.decoder.unit"].origin == "file"
    assert str(card.provenance["detection.decoder.unit"].detail).startswith("on noise its boxes reach 6")
    assert card.provenance["detection.decoder.activation"].origin == "file"
    assert card.detection.suppression == "by-class"
    assert {"detection.decoder.format", "input.fitting"} <= set(card.doubtful)


CELLS = (SIDE // 4) ** 2


def combined(kind: str, tmp_path: Path) -> onnx.ModelProto:
    """A detector of colours whose outputs are one, in the form of an exporter."""
    own = save_detector(tmp_path / "own", "own", "decoded-boxes")
    model = onnx.load(own / "model.onnx")
    node, graph = helper.make_node, model.graph
    constants: dict[str, Any] = {"two": np.float32(2), "half": np.float32(0.5)}

    def slices(name: str, start: int, end: int) -> str:
        constants[f"{name}.from"], constants[f"{name}.to"] = np.array([start]), np.array([end])
        constants["last axis"] = np.array([2])
        graph.node.append(node("Slice", ["boxes", f"{name}.from", f"{name}.to", "last axis"], [name]))
        return name

    low, high = slices("low", 0, 2), slices("high", 2, 4)
    graph.node.extend(
        [
            node("Add", [low, high], ["sum"]),
            node("Div", ["sum", "two"], ["centre"]),
            node("Sub", [high, low], ["size"]),
            node("Concat", ["centre", "size"], ["centred"], axis=2),
        ]
    )
    constants["last of scores"] = np.array([2])
    if kind in ("classes by boxes", "boxes by classes"):
        graph.node.append(node("Concat", ["centred", "scores"], ["rows"], axis=2))
        last = "rows"
        if kind == "classes by boxes":
            graph.node.append(node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]))
            last = "turned"
    elif kind == "objectness":
        graph.node.extend(
            [
                node("ReduceMax", ["scores", "last of scores"], ["object"], keepdims=1),
                node("Div", ["scores", "object and"], ["of object"]),
                node("Add", ["object", "little"], ["object and"]),
                node("Concat", ["centred", "object and", "of object"], ["rows"], axis=2),
            ]
        )
        graph.node.insert(len(graph.node) - 3, graph.node.pop(len(graph.node) - 2))
        constants["little"] = np.float32(1e-6)
        last = "rows"
    else:
        graph.node.extend(
            [
                node("ReduceMax", ["scores", "last of scores"], ["best"], keepdims=1),
                node("ArgMax", ["scores"], ["index"], axis=2, keepdims=1),
                node("Cast", ["index"], ["id"], to=TensorProto.FLOAT),
                node("Concat", ["boxes", "best", "id"], ["rows"], axis=2),
            ]
        )
        last = "rows"
        if kind == "rows of seven":
            constants |= {"image axis": np.array([0]), "no image": np.float32(0)}
            graph.node.extend(
                [
                    node("Mul", ["best", "no image"], ["image number"]),
                    node("Concat", ["image number", "boxes", "id", "best"], ["sevens"], axis=2),
                    node("Squeeze", ["sevens", "image axis"], ["seven"]),
                ]
            )
            last = "seven"
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("output0", TensorProto.FLOAT, None))
    graph.node.append(node("Identity", [last], ["output0"]))
    return model


COMBINED: dict[str, dict[str, Any]] = {
    "classes by boxes": {"scores_layout": "classes-boxes", "format": "cxcywh"},
    "boxes by classes": {"scores_layout": "boxes-classes", "format": "cxcywh"},
    "objectness": {"scores_layout": "boxes-classes", "format": "cxcywh"},
    "score and class": {"format": "xyxy", "boxes_first": False},
    "rows of seven": {"format": "xyxy", "boxes_first": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMBINED)
def test_boxes_and_scores_in_one_output_are_parted(kind: str, tmp_path: Path) -> None:
    facts = {"detection.iou": 0.3, "detection.suppression": "by-class"}
    result = added(tmp_path, save(tmp_path / "given", combined(kind, tmp_path)), **facts)
    detection = result.card.detection
    assert detection is not None
    assert isinstance(detection.decoder, DecodedBoxes)
    assert COMBINED[kind].items() <= detection.decoder.model_dump().items()
    assert any("part of 'output0' added as output" in change for change in result.changes)
    expected, got = found(tmp_path / "own", "own"), found(tmp_path / "zoo", "m")
    assert [one.label for one in got] == [one.label for one in expected]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=1e-3)
        assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.slow
def test_the_metadata_of_ultralytics_states_all_of_a_detectors_input(tmp_path: Path) -> None:
    model = combined("classes by boxes", tmp_path)
    names = str(dict(enumerate(CLASSES)))
    for key, value in {"names": names, "imgsz": f"[{SIDE}, {SIDE}]", "task": "detect"}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    options = Options(name="m", facts={"detection.iou": 0.3, "detection.suppression": "by-class"})
    card = add(save(tmp_path / "given", model), options, to=tmp_path / "zoo").card
    assert (card.task, card.classes) == ("object-detection", len(CLASSES))
    assert (card.input.fitting, card.input.pad_value, card.input.std) == ("letterbox", 114, (255.0,) * 3)
    assert card.detection is not None
    assert COMBINED["classes by boxes"].items() <= card.detection.decoder.model_dump().items()
    assert card.detection.decoder.model_dump()["unit"] == "pixels"
    assert {card.provenance[f"input.{fact}"].origin for fact in ("fitting", "mean", "colour_order")} == {
        "metadata"
    }
    assert {one.label for one in found(tmp_path / "zoo", "m")} == {"red", "blue"}


@pytest.mark.parametrize(
    ("preset", "fitting", "origin"),
    [("ultralytics", "letterbox", "flag"), ("timm", "stretch", "assumed"), ("hf", "stretch", "assumed")],
)
def test_a_preset_never_crops_the_picture_of_a_detector(
    preset: str, fitting: str, origin: str, tmp_path: Path
) -> None:
    own = save_detector(tmp_path / "own", "own", "decoded-boxes")
    options = Options(name="m", labels=labelled(tmp_path), preset=preset)
    given = save(tmp_path / "given", (own / "model.onnx").read_bytes())
    card = add(given, options, to=tmp_path / "zoo").card
    assert card.input.fitting == fitting
    assert card.provenance["input.fitting"].origin == origin
    padding = card.provenance.get("input.pad_value")
    assert (None if padding is None else padding.origin) == ("flag" if fitting == "letterbox" else None)
    assert card.provenance["input.mean"].origin == "flag"


def renamed(tmp_path: Path, kind: str, names: dict[str, str]) -> Path:
    own = save_detector(tmp_path / "own", "own", kind)
    model = onnx.load(own / "model.onnx")
    for old, new in names.items():
        model.graph.node.append(helper.make_node("Identity", [old], [new]))
        (output,) = (one for one in model.graph.output if one.name == old)
        output.name = new
    return save(tmp_path / "given", model)


def test_the_names_of_tensorflows_object_detection_are_known(tmp_path: Path) -> None:
    names = {
        "boxes": "detection_boxes", "scores": "detection_scores", "classes": "detection_classes",
        "count": "num_detections",
    }  # fmt: skip
    card = added(tmp_path, renamed(tmp_path, "one-class-a-box", names)).card
    assert isinstance(decoder := decoder_of(card), DecodedBoxes)
    assert (decoder.format, decoder.unit, card.class_offset) == ("yxyx", "fractions", 1)
    assert {card.provenance[f"detection.decoder.{name}"].origin for name in ("format", "unit")} == {"file"}
    assert set(card.output_shapes) == {"boxes", "scores", "classes", "count"}


def test_the_names_of_torchvisions_detectors_are_known(tmp_path: Path) -> None:
    file = renamed(tmp_path, "boxes-first", {"classes": "labels"})
    result = add(file, Options(name="m", labels=labelled(tmp_path)), to=tmp_path / "zoo")
    decoder = decoder_of(result.card)
    assert isinstance(decoder, DecodedBoxes)
    assert (decoder.format, decoder.unit, decoder.boxes_first) == ("xyxy", "pixels", True)
    assert result.card.class_offset == 1
    assert result.card.input.std == (255.0,) * 3


@pytest.mark.slow
def test_the_format_of_nonmaxsuppression_is_assumed_unless_it_is_of_centres(tmp_path: Path) -> None:
    own = save_detector(tmp_path / "own", "own", "selected-boxes")
    file = save(tmp_path / "given", (own / "model.onnx").read_bytes())
    card = added(tmp_path, file).card
    assert card.provenance["detection.decoder.format"].origin == "assumed"
    model = onnx.load(file)
    (suppression,) = (node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    suppression.attribute.append(helper.make_attribute("center_point_box", 1))
    (tmp_path / "zoo").rename(tmp_path / "first")
    card = added(tmp_path, save(tmp_path / "given", model)).card
    decoder = decoder_of(card)
    assert isinstance(decoder, SelectedBoxes)
    assert (decoder.format, card.provenance["detection.decoder.format"].origin) == ("cxcywh", "file")


def test_values_before_nonmaxsuppression_become_outputs(tmp_path: Path) -> None:
    own = save_detector(tmp_path / "own", "own", "selected-boxes")
    model = onnx.load(own / "model.onnx")
    kept = [output for output in model.graph.output if output.name == "selected"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    facts = {"detection.decoder.format": "yxyx", "detection.iou": 0.3}
    result = added(tmp_path, save(tmp_path / "given", model), **facts)
    assert result.changes == (
        "value 'boxes' added as output",
        "value 'scores' added as output",
    )
    assert found(tmp_path / "zoo", "m") == found(tmp_path / "own", "own")


def decoder_of(card: Card) -> object:
    assert card.detection is not None
    return card.detection.decoder


def only(*names: str) -> Callable[[onnx.ModelProto], None]:
    """Leave out all other outputs."""

    def change(model: onnx.ModelProto) -> None:
        kept = [output for output in model.graph.output if output.name in names]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return change


REFUSED: dict[str, tuple[str, Callable[[onnx.ModelProto], None], Sequence[str], str]] = {
    "no scores": ("decoded-boxes", only("boxes"), CLASSES, "missing: scores of the boxes in 'boxes'"),
    "class ids without labels": ("one-class-a-box", only("boxes", "scores", "classes"), (), "--labels FILE"),
    "raw maps": (
        "centre-points", only("heatmap", "size", "offset"), CLASSES, "missing: boxes that the graph"
    ),
    "labels of NonMaxSuppression": (
        "selected-boxes", only("boxes", "scores", "selected"), CLASSES[:1], "1 names for 3 scores of each box"
    ),
    "labels of columns": ("decoded-boxes", only("boxes", "scores"), CLASSES[:1], "1 names for 3 scores"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    of, change, names, words = REFUSED[kind]
    own = save_detector(tmp_path / "own", "own", of)
    model = onnx.load(own / "model.onnx")
    change(model)
    with pytest.raises(RefusedModel) as error:
        added(tmp_path, save(tmp_path / "given", model), names)
    assert words in str(error.value)
    assert not list((tmp_path / "zoo").iterdir())


def test_pictures_are_refused_for_a_detector(tmp_path: Path) -> None:
    own = save_detector(tmp_path / "own", "own", "decoded-boxes")
    file = save(tmp_path / "given", (own / "model.onnx").read_bytes())
    options = Options(name="m", labels=labelled(tmp_path), images=tmp_path)
    with pytest.raises(RefusedModel, match=r"--images .*: for classifiers"):
        add(file, options, to=tmp_path / "zoo")
