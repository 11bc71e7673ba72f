"""Every card of the project's zoo is true, and a card that lies is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.cli.zoo import card_table
from models.zoo.card import read_card
from tests.models.zoo.card_facts import untrue_facts

ZOO = Path(__file__).resolve().parents[3] / "models" / "zoo" / "networks"
NAMES = sorted(path.parent.name for path in ZOO.glob("*/card.json"))
IMAGENET = [f"efficientnet-lite{digit}{suffix}" for digit in range(3) for suffix in ("", "-int8")]
DETECTORS = [name for name in NAMES if name.startswith(("centerface", "ssd-mobilenet-v2"))]
FASHION = [name for name in NAMES if name.startswith("fashion-")]
FAMILY_BYTES = 30_000_000
"""What the whole Fashion-MNIST family may take."""
INT8 = "efficientnet-lite0-int8"
PARENT = "efficientnet-lite0"


def test_models_of_the_zoo() -> None:
    assert set(IMAGENET) <= set(NAMES)
    assert set(NAMES) == {*IMAGENET, *FASHION, *DETECTORS}
    assert {"centerface", "ssd-mobilenet-v2"} <= set(DETECTORS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_cards_match_their_files(zoo: Path, name: str) -> None:
    assert untrue_facts(zoo / name) == []


@pytest.mark.parametrize("name", IMAGENET)
def test_reported_accuracy_has_a_source(zoo: Path, name: str) -> None:
    card = read_card(zoo / name)
    assert card.labels == "imagenet-1k"
    assert card.accuracy is not None
    assert card.accuracy.how
    assert card.source.licence == "Apache-2.0"
    assert set(card.outputs) == {"logits", "embedding", "features"}
    assert card.outputs["embedding"] == (1280,)
    if card.precision == "fp32":
        assert card.accuracy.kind == "reported"
        assert card.derived_from is None
    else:
        assert card.accuracy.kind == "inherited"
        assert card.derived_from == name.removesuffix("-int8")
        assert card.agreement is not None
        assert card.agreement.n >= 200
        assert card.agreement.value >= 0.92
        assert card.agreement.interval.low < card.agreement.value < card.agreement.interval.high


@pytest.mark.parametrize("name", FASHION)
def test_family_is_measured_on_all_test_images(zoo: Path, name: str) -> None:
    card = read_card(zoo / name)
    assert card.labels == "fashion-mnist"
    assert card.input.polarity == "light-on-dark"
    assert any("polarity" in note for note in card.notes)
    assert card.accuracy is not None
    assert (card.accuracy.kind, card.accuracy.n) == ("measured", 10_000)
    assert card.accuracy.correct is not None
    assert card.accuracy.interval is not None
    assert card.accuracy.interval.low < card.accuracy.value < card.accuracy.interval.high
    assert card.accuracy.instruction_set
    assert card.robustness is not None
    assert card.robustness.mean < card.accuracy.value
    if card.precision == "int8":
        assert card.agreement is not None


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_claims_no_accuracy(zoo: Path, name: str) -> None:
    card = read_card(zoo / name)
    assert card.task == "object-detection"
    assert card.accuracy is None
    assert card.source.licence == {"centerface": "MIT", "ssd": "Apache-2.0"}[name.split("-")[0]]
    assert any("measured" in note and "docs/detection.md" in note for note in card.notes)
    assert card.derived_from == (None if card.precision == "fp32" else name.removesuffix("-int8"))


def test_size_of_the_family(zoo: Path) -> None:
    files = (file for name in FASHION for file in (zoo / name).iterdir())
    assert sum(file.stat().st_size for file in files) < FAMILY_BYTES


@pytest.fixture
def copied(zoo: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Makes a zoo of an int8 model and its parent, with changes to the int8 card, and returns its folder."""

    def copy(changes: dict[str, Any]) -> Path:
        for name in (PARENT, INT8):
            target = tmp_path / name
            target.mkdir()
            for file in (zoo / name).iterdir():
                (target / file.name).symlink_to(file)
        path = tmp_path / INT8 / "card.json"
        card = json.loads(path.read_text())
        path.unlink()
        for place, value in changes.items():
            *parts, last = place.split(".")
            part = card
            for key in parts:
                part = part[key]
            part[last] = value
        path.write_text(json.dumps(card))
        return tmp_path / INT8

    return copy


def test_unchanged_copy(copied: Callable[[dict[str, Any]], Path]) -> None:
    assert untrue_facts(copied({})) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"file.bytes": 1}, "model.onnx bytes 1, found"),
        ({"file.sha256": "0" * 64}, "model.onnx sha256 differs"),
        ({"file.opset": 11}, "opset 11, found"),
        ({"file.initializer_elements": 7}, "initializer_elements 7, found"),
        ({"precision": "fp32"}, "precision fp32, but the file has quantized layers"),
        ({"outputs.features": [1280, 8, 8]}, "output features (1280, 8, 8), found (1280, 7, 7)"),
        ({"outputs": {"logits": [1000], "embedding": [1280]}}, "output features is only in the file"),
        ({"name": "efficientnet-lite9"}, "name efficientnet-lite9, folder efficientnet-lite0-int8"),
        ({"macs": 1}, "macs 1, found 385187552"),
        ({"parameters": 1}, "parameters differs from efficientnet-lite0's"),
        ({"accuracy.value": 0.99}, "accuracy 0.99 is not efficientnet-lite0's"),
        ({"classifier.file.sha256": "0" * 64}, "classifier.npz sha256 differs"),
        ({"labels": "imagenet-21k"}, "label set 'imagenet-21k' is not built in"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_false_statement_on_a_card(
    copied: Callable[[dict[str, Any]], Path], changes: dict[str, Any], found: str
) -> None:
    untrue = untrue_facts(copied(changes))
    assert any(fact.startswith(found) for fact in untrue), untrue


def test_classifier_of_another_model(copied: Callable[[dict[str, Any]], Path]) -> None:
    folder = copied({})
    path = folder.parent / PARENT / "classifier.npz"
    with np.load(path) as arrays:
        weight, bias = arrays["weight"], arrays["bias"]
    path.unlink()
    np.savez(path, weight=np.roll(weight, 1, axis=0), bias=bias)
    assert any(fact.startswith("classifier: logits differ by") for fact in untrue_facts(folder))


def test_documented_table_matches_the_cards(zoo: Path) -> None:
    page = (zoo.parents[2] / "docs" / "models.md").read_text()
    assert card_table(zoo) in page
