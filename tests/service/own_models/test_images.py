"""`--images`: labelled pictures settle what nothing states, and leave what they cannot tell apart marked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.errors import RefusedModel
from service.own_models.add import Added, Options, add
from tests.helpers.disguise import disguise
from tests.helpers.networks import SIDE, save_network

LEVELS = (30, 100, 160, 230)
COLOURS = {"-".join(map(str, colour)): colour for colour in itertools.product(LEVELS, repeat=3)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A network that names colours, for BGR from -1 to 1 in NHWC."""
    centres = (np.array(list(COLOURS.values())) - 127) / 127
    plain = save_network(
        tmp_path / "plain",
        "colours",
        classes=len(COLOURS),
        weights={"head.weight": (40 * centres.T).astype(np.float32)},
        bias=(-20 * (centres**2).sum(axis=1)).astype(np.float32),
    )
    model = disguise(onnx.load(plain / "model.onnx"), 127, 127, layout="nhwc", order="bgr", range_="-1 to 1")
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    path = tmp_path / "disguised.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def pictures(folder: Path, names: list[str], count: int = 5) -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.normal(COLOURS[name], 12, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    return folder / "pictures"


def added(file: Path, images: Path, **facts: object) -> Added:
    return add(file, Options(name="m", images=images, facts=facts), to=file.parent / "zoo")


@pytest.mark.slow
def test_pictures_settle_the_range_and_the_colour_order(file: Path, tmp_path: Path) -> None:
    result = added(file, pictures(tmp_path, list(COLOURS), count=1))
    spec, provenance = result.card.input, result.card.provenance
    assert (spec.colour_order, spec.mean, spec.std) == ("bgr", (127.5,) * 3, (127.5,) * 3)
    assert [provenance[f"input.{name}"].origin for name in ("mean", "std", "colour_order")] == [
        "pictures"
    ] * 3
    assert "log-probability of the true class higher by" in str(provenance["input.mean"].detail)
    assert not {"input.mean", "input.std", "input.colour_order"} & set(result.card.assumed)
    assert "with this preprocessing 64 of 64 pictures are named right" in result.warnings


@pytest.mark.slow
def test_what_pictures_cannot_tell_apart_stays_assumed(file: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path, [f"{level}-{level}-{level}" for level in LEVELS])
    fact = added(file, images).card.provenance["input.colour_order"]
    assert (fact.origin, fact.undecided) == ("assumed", ("rgb", "bgr"))


def lastly_scored(file: Path, *, first: bool) -> None:
    """Give the network a score more, before the classes or after them."""
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.array([[-900.0]], np.float32), "more"))
    (last,) = (node for node in model.graph.node if "y" in node.output)
    last.output[0] = "classes"
    names = ["more", "classes"] if first else ["classes", "more"]
    model.graph.node.append(helper.make_node("Concat", names, ["y"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(COLOURS) + 1
    onnx.save(model, file)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_pictures_settle_where_the_classes_begin(first: bool, file: Path, tmp_path: Path) -> None:
    lastly_scored(file, first=first)
    card = added(file, pictures(tmp_path, list(COLOURS), count=1)).card
    assert card.class_offset == int(first)
    fact = card.provenance["outputs.class_offset"]
    assert fact.origin == "pictures"
    words = "the first score is a background class" if first else "the classes begin at the first score"
    assert str(fact.detail).startswith(f"{words}: log-probability of the true class higher by")
    assert (card.input.colour_order, card.input.mean) == ("bgr", (127.5,) * 3)


@pytest.mark.slow
def test_a_stated_class_offset_is_kept_and_contradicted(file: Path, tmp_path: Path) -> None:
    lastly_scored(file, first=True)
    result = added(file, pictures(tmp_path, list(COLOURS), count=1), **{"outputs.class_offset": 0})
    assert result.card.class_offset == 0
    (warning,) = [line for line in result.warnings if line.startswith("PICTURES CONTRADICT")]
    assert "outputs.class_offset (--class-offset), which is kept" in warning
    assert "the first score is a background class" in warning
    assert "--class-offset 1" in warning


def test_few_pictures_leave_the_class_offset_undecided(file: Path, tmp_path: Path) -> None:
    lastly_scored(file, first=True)
    fact = added(file, pictures(tmp_path, ["30-30-30"], count=3)).card.provenance["outputs.class_offset"]
    assert fact.origin == "assumed"
    assert len(fact.undecided) == 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pictures_settle_a_layout_that_running_does_not(layout: str, file: Path, tmp_path: Path) -> None:
    """A network that takes all pixels at once, of any sides: it runs in both layouts."""
    centres = (np.array(list(COLOURS.values())) - 127.5) / 127.5
    per_pixel = np.repeat(centres[..., None], SIDE * SIDE, 2) * 40 / SIDE**2  # (classes, channels, pixels)
    weights = per_pixel if layout == "nchw" else per_pixel.transpose(0, 2, 1)
    tensors = {
        "weights": weights.reshape(len(COLOURS), -1).T,
        "bias": -20 * (centres**2).sum(axis=1),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "a", "b", "c"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", len(COLOURS)])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    size = {"input.size": (SIDE, SIDE)}
    without = add(file, Options(name="without", facts=size), to=tmp_path / "zoo").card
    assert (without.input.layout, without.provenance["input.layout"].origin) == ("nchw", "assumed")
    card = added(file, pictures(tmp_path, list(COLOURS), count=1), **size).card
    assert (card.input.layout, card.provenance["input.layout"].origin) == (layout, "pictures")
    assert card.input.mean == (127.5,) * 3
    kept = add(
        file,
        Options(name="kept", images=tmp_path / "pictures", facts={**size, "input.layout": "nhwc"}),
        to=tmp_path / "zoo",
    )
    assert kept.card.input.layout == "nhwc"
    assert any("CONTRADICT input.layout (--layout)" in line for line in kept.warnings) == (layout == "nchw")


@pytest.mark.slow
def test_a_flag_is_not_judged(file: Path, tmp_path: Path) -> None:
    card = added(file, pictures(tmp_path, list(COLOURS), count=1), **{"input.colour_order": "rgb"}).card
    assert card.input.colour_order == "rgb"
    assert card.provenance["input.colour_order"].origin == "flag"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["preset", "metadata"])
def test_pictures_that_contradict_what_is_stated_are_reported(
    source: str, file: Path, tmp_path: Path
) -> None:
    images = pictures(tmp_path, list(COLOURS), count=1)
    options: dict[str, Any] = {"preset": "keras-torch"}
    if source == "metadata":
        processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 16}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        options = {}
    result = add(file, Options(name="m", images=images, **options), to=tmp_path / "zoo")
    spec = result.card.input
    assert (spec.colour_order, spec.mean[0]) == ("rgb", pytest.approx(123.675))
    (warning,) = [line for line in result.warnings if line.startswith("PICTURES CONTRADICT")]
    stated = "--preset keras-torch" if source == "preset" else "preprocessor_config.json"
    assert f"input.mean ({stated})" in warning
    assert f"input.colour_order ({stated})" in warning
    assert "-1 to 1, bgr names 64 of 64 right" in warning
    assert "log-probability of the true class higher by" in warning
    assert "--range=-1..1 --colour-order bgr" in warning


@pytest.mark.slow
def test_pictures_that_agree_with_what_is_stated_are_silent(file: Path, tmp_path: Path) -> None:
    facts = {"input.mean": (127.5,) * 3, "input.std": (127.5,) * 3, "input.colour_order": "bgr"}
    result = added(file, pictures(tmp_path, list(COLOURS), count=1), **facts)
    assert not [line for line in result.warnings if "CONTRADICT" in line]


def test_folders_that_match_no_label_are_refused(file: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path, ["30-30-30"])
    (images / "purple").mkdir()
    with pytest.raises(RefusedModel, match=r"match no single label: purple \(0 labels\)"):
        added(file, images)
    assert not list((tmp_path / "zoo").iterdir())
