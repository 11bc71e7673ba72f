"""What labelled pictures say of fitting and filter, on networks that depend on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models.zoo.card import Card
from service.own_models.sources.evidence import Evidence, judge
from service.own_models.sources.pictures import Labelled

SIDE = 32
ANGLES = np.arange(8) * np.pi / 8
WIDE = 2
"""Width of the wide pictures, in heights."""


def save(nodes: list[onnx.NodeProto], tensors: dict[str, Any], classes: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def card(classes: int, **input_: Any) -> Card:
    facts = {"height": SIDE, "width": SIDE, "resize": SIDE, "mean": (0,) * 3, "std": (1,) * 3}
    return Card.model_validate(
        {
            "schema_version": 2,
            "name": "network",
            "labels": "some",
            "classes": classes,
            "architecture": "filters",
            "block": "none",
            "precision": "fp32",
            "input": {**facts, "interpolation": "bilinear", "name": "image", **input_},
            "outputs": {"logits": (classes,)},
            "parameters": 1,
            "macs": 1,
            "file": {
                "name": "model.onnx", "bytes": 1, "sha256": "0" * 64, "opset": 18, "initializer_elements": 1
            },
            "source": {"weights": "made", "licence": "CC0-1.0"},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def directions() -> bytes:
    """A network that names the direction across stripes, whatever their width, by a structure tensor."""
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 3 / 255
    tensors = {
        "across": np.tile(sobel, (1, 3, 1, 1)),
        "down": np.tile(sobel.T, (1, 3, 1, 1)),
        "weights": np.stack((np.cos(2 * ANGLES), 2 * np.sin(2 * ANGLES), -np.cos(2 * ANGLES))),
    }
    nodes = [
        helper.make_node("Conv", ["image", "across"], ["x"]),
        helper.make_node("Conv", ["image", "down"], ["y"]),
        helper.make_node("Mul", ["x", "x"], ["xx"]),
        helper.make_node("Mul", ["x", "y"], ["xy"]),
        helper.make_node("Mul", ["y", "y"], ["yy"]),
        helper.make_node("Concat", ["xx", "xy", "yy"], ["tensor"], axis=1),
        helper.make_node("GlobalAveragePool", ["tensor"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    return save(nodes, tensors, len(ANGLES))


def stripes(angle: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Stripes across `angle` in a picture twice as wide as high, uint8 (64, 128, 3)."""
    rows, columns = np.mgrid[0:64, 0 : 64 * WIDE]
    phase = (np.cos(angle) * columns + np.sin(angle) * rows) * 2 * np.pi / random.uniform(16, 24)
    grey = 127 + 100 * np.sin(phase + random.uniform(0, 6)) + random.normal(0, 8, phase.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def pictures(folder: Path, of_class: Callable[[int], NDArray[np.uint8]], count: int) -> list[Labelled]:
    labelled = []
    for number in range(count):
        Image.fromarray(of_class(number)).save(folder / f"{number}.png")
        labelled.append(Labelled(folder / f"{number}.png", number))
    return labelled


def striped(folder: Path, *, squeezed: bool, count: int = 32) -> list[Labelled]:
    """Stripes of each class in turn; `squeezed`: as they are when the picture is made square."""
    random = np.random.default_rng(0)

    def of_class(number: int) -> NDArray[np.uint8]:
        angle = ANGLES[number % len(ANGLES)]
        if squeezed:  # frequencies across double when the width halves
            angle = np.arctan2(np.sin(angle), np.cos(angle) / WIDE)
        return stripes(angle, random)

    return [Labelled(one.path, one.class_id % len(ANGLES)) for one in pictures(folder, of_class, count)]


def judged(content: bytes, card: Card, labelled: list[Labelled], *fixed: str) -> Evidence:
    fixed = ("input.mean", "input.colour_order", *fixed)
    return judge(content, card, labelled, fixed=fixed)


@pytest.mark.slow
def test_a_network_of_squeezed_objects_is_given_them(directions: bytes, tmp_path: Path) -> None:
    evidence = judged(directions, card(8), striped(tmp_path, squeezed=True))
    assert evidence.input.fitting == "stretch"
    assert evidence.decided["input.fitting"].startswith(
        "stretch: log-probability of the true class higher by"
    )
    assert "than with the same undistorted, 32 pictures" in evidence.decided["input.fitting"]
    assert evidence.correct == 32
    assert evidence.contradictions == ()


@pytest.mark.slow
def test_a_network_of_undistorted_objects_rules_stretch_out(directions: bytes, tmp_path: Path) -> None:
    labelled = striped(tmp_path, squeezed=False)
    for fitting in ("center-crop", "stretch"):
        evidence = judged(directions, card(8, fitting=fitting), labelled)
        assert evidence.input.fitting == "center-crop"
        assert "input.fitting" not in evidence.decided
        assert "center-crop of 32" in evidence.undecided["input.fitting"]
        assert "letterbox" in evidence.undecided["input.fitting"]
        assert "stretch" not in evidence.undecided["input.fitting"]


@pytest.mark.slow
@pytest.mark.parametrize(("squeezed", "stated"), [(True, "center-crop"), (False, "stretch")])
def test_a_stated_fitting_is_kept_and_the_contradiction_named(
    squeezed: bool, stated: str, directions: bytes, tmp_path: Path
) -> None:
    labelled = striped(tmp_path, squeezed=squeezed)
    evidence = judged(directions, card(8, fitting=stated), labelled, "input.fitting")
    assert evidence.input.fitting == stated
    (against,) = evidence.contradictions
    assert against.facts == ("input.fitting",)
    assert against.better.input.fitting == ("stretch" if squeezed else "center-crop")
    assert "higher by" in against.words


@pytest.mark.slow
def test_square_pictures_tell_no_fitting(directions: bytes, tmp_path: Path) -> None:
    for one in striped(tmp_path, squeezed=True):
        Image.open(one.path).resize((64, 64)).save(one.path)
    labelled = [Labelled(tmp_path / f"{number}.png", number % 8) for number in range(32)]
    evidence = judged(directions, card(8), labelled)
    assert evidence.input.fitting == "center-crop"
    assert {"center-crop of 32", "stretch"} <= set(evidence.undecided["input.fitting"])


@pytest.mark.slow
def test_few_pictures_tell_no_fitting(directions: bytes, tmp_path: Path) -> None:
    evidence = judged(directions, card(8), striped(tmp_path, squeezed=True, count=6))
    assert evidence.input.fitting == "center-crop"
    assert "stretch" in evidence.undecided["input.fitting"]


@pytest.mark.slow
def test_framing_is_no_evidence(tmp_path: Path) -> None:
    """A network that looks at the borders only: crops cannot be right, and which one is right is not told."""
    random = np.random.default_rng(0)

    def framed(number: int) -> NDArray[np.uint8]:
        pixels = random.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        pixels[:, :12, number % 3] += 150
        return pixels

    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    content = save(nodes, {"weights": np.eye(3)}, 3)
    labelled = [Labelled(one.path, one.class_id % 3) for one in pictures(tmp_path, framed, 60)]
    evidence = judged(content, card(3), labelled)
    assert evidence.input.fitting == "center-crop"
    assert len(evidence.undecided["input.fitting"]) == 4
    assert evidence.fitting is not None
    assert "log-probability of the true class higher by" in evidence.fitting


@pytest.fixture(scope="module")
def overshoots() -> bytes:
    """A network that names the channel with values over 200, which bicubic makes at edges of 64 to 192."""
    nodes = [
        helper.make_node("Sub", ["image", "most"], ["over"]),
        helper.make_node("Relu", ["over"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    return save(nodes, {"most": [200.0]}, 3)


def edged(folder: Path) -> list[Labelled]:
    random = np.random.default_rng(0)

    def of_class(number: int) -> NDArray[np.uint8]:
        pixels = np.full((8, 8, 3), 128, np.uint8)
        pixels[..., number % 3] = 64 + 128 * random.integers(0, 2, (8, 8))
        return pixels

    return [Labelled(one.path, one.class_id % 3) for one in pictures(folder, of_class, 45)]


@pytest.mark.slow
def test_a_filter_that_does_better_is_named_and_not_decided(overshoots: bytes, tmp_path: Path) -> None:
    """Such pictures favour a filter whatever the network was trained with."""
    labelled = edged(tmp_path)
    evidence = judged(overshoots, card(3), labelled)
    assert evidence.input.interpolation == "bilinear"
    assert "input.interpolation" not in evidence.decided
    assert evidence.undecided["input.interpolation"] == ("bilinear", "bicubic")
    fixed = judged(overshoots, card(3), labelled, "input.fitting")
    assert fixed.fitting is not None
    assert fixed.fitting.startswith("bicubic: log-probability of the true class higher by")
    assert "than with bilinear, 45 pictures" in fixed.fitting


@pytest.mark.slow
@pytest.mark.parametrize("stated", ["bilinear", "bicubic"])
def test_a_stated_filter_is_kept(stated: str, overshoots: bytes, tmp_path: Path) -> None:
    labelled = edged(tmp_path)
    evidence = judged(overshoots, card(3, interpolation=stated), labelled, "input.interpolation")
    assert evidence.input.interpolation == stated
    assert evidence.contradictions == ()


@pytest.mark.slow
def test_filters_that_do_alike_are_undecided(directions: bytes, tmp_path: Path) -> None:
    evidence = judged(directions, card(8), striped(tmp_path, squeezed=False))
    assert evidence.undecided["input.interpolation"] == ("bilinear", "bicubic")
    assert evidence.input.interpolation == "bilinear"
