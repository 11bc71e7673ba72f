"""Publishing a trained network and its int8 variant; `evaluate` reproduces their cards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.architectures.fashion import create  # noqa: E402
from models.cli import main  # noqa: E402
from models.data.fashion_mnist import Images, load_test, load_train  # noqa: E402
from models.evaluate.accuracy import (  # noqa: E402
    ZooClassifier,
    accuracy_of,
    corrupted_accuracy,
    disagreement,
    mean_probabilities,
    probabilities,
    stability,
)
from models.evaluate.significance import PAIRS, read_judgements  # noqa: E402
from models.onnx_tools.quantize import QuantizationPlan  # noqa: E402
from models.publish.publish import Origin, evenly_spaced, publish, publish_int8  # noqa: E402
from models.train.family import new_network  # noqa: E402
from models.train.job import Prepared  # noqa: E402
from models.train.predict import accuracy  # noqa: E402
from models.zoo.card import Card, read_card, write_card  # noqa: E402
from models.zoo.labels import read_labels  # noqa: E402

pytestmark = pytest.mark.torch

NAME = "fashion-depthwise-separable"
ONE = np.zeros(1, dtype=np.int64)
IDENTITY: dict[str, Any] = {
    "recipe": {"epochs": 3},
    "images": [55_000, 5000],
    "seed": 0,
    "made_with": "cpu, torch 9",
}


@pytest.fixture(scope="module")
def test_images(fashion: Path) -> Images:
    return evenly_spaced(load_test(fashion), 200)


@pytest.fixture(scope="module")
def train(fashion: Path) -> Images:
    return evenly_spaced(load_train(fashion), 1000)


@pytest.fixture(scope="module")
def network(train: Images) -> Any:
    """A network trained briefly, with an accuracy above chance."""
    torch.set_num_threads(1)
    network = new_network(create(NAME).design, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    images = Prepared.of(train)
    for indices in torch.arange(1000).repeat(3).split(50):
        loss = torch.nn.functional.cross_entropy(network(images.inputs[indices]), images.classes[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def zoo_of_two(
    network: Any, train: Images, test_images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    publish(NAME, network, IDENTITY, Origin("a test"), folder, train, test_images)
    publish_int8(NAME, folder, QuantizationPlan(), evenly_spaced(train, 64), test_images)
    return folder


def test_card_states_the_measured_accuracy(zoo_of_two: Path, network: Any, test_images: Images) -> None:
    card = read_card(zoo_of_two / NAME)
    assert card.accuracy is not None
    assert card.robustness is not None
    assert card.accuracy.correct == round(accuracy(network, Prepared.of(test_images)) * 200)
    assert 0.5 < card.accuracy.value < 1
    assert card.robustness.mean < card.accuracy.value
    assert card.input.polarity == "light-on-dark"
    assert any("polarity" in note for note in card.notes)
    (note,) = (note for note in card.notes if note.startswith("3 epochs on 55000 of the 60 000"))
    assert note.endswith(", seed 0, on cpu, torch 9")
    assert len(read_labels(card, zoo_of_two / NAME)) == 10
    found = card.model_copy(update={"accuracy": accuracy_of(_correct(zoo_of_two / NAME, test_images))})
    assert disagreement(card, found) == []


def _correct(folder: Path, images: Images) -> Any:
    return ZooClassifier(folder).classes(images.pixels) == images.classes


def test_negatives_get_the_same_classes(zoo_of_two: Path, test_images: Images) -> None:
    classifier = ZooClassifier(zoo_of_two / NAME)
    assert (
        classifier.classes(255 - test_images.pixels) == classifier.classes(test_images.pixels)
    ).mean() > 0.99


def test_int8_variant_is_evaluated(zoo_of_two: Path) -> None:
    card, parent = read_card(zoo_of_two / f"{NAME}-int8"), read_card(zoo_of_two / NAME)
    assert card.accuracy is not None
    assert card.accuracy.kind == "measured"
    assert card.agreement is not None
    assert card.agreement.value > 0.85
    assert (card.derived_from, card.precision) == (NAME, "int8")
    assert card.file.bytes < parent.file.bytes
    assert card.classifier == parent.classifier


def test_card_of_a_derived_model(network: Any, train: Images, test_images: Images, tmp_path: Path) -> None:
    origin = Origin("a test", derived_from=NAME)
    identity = IDENTITY | {"parent": "p, seed 0, 3 epochs, weights 12", "teacher": ["b 34", "c 56"]}
    card = publish(f"{NAME}-distilled", network, identity, origin, tmp_path, train, test_images.take(ONE))
    assert (card.architecture, card.derived_from, card.block) == (NAME, NAME, "depthwise-separable")
    (note,) = (note for note in card.notes if note.startswith("3 epochs on "))
    assert "; fine-tuned from p, seed 0, 3 epochs, weights 12; teacher: the mean of b 34 and c 56" in note


def test_disagreement_of_a_card(zoo_of_two: Path, test_images: Images) -> None:
    card = read_card(zoo_of_two / NAME)
    assert card.accuracy is not None
    off = card.accuracy.model_copy(update={"value": card.accuracy.value - 0.02, "correct": None})
    messages = disagreement(Card.model_validate(card.model_dump() | {"accuracy": off.model_dump()}), card)
    assert len(messages) == 1
    assert messages[0].startswith(f"{NAME}: accuracy ")
    again = corrupted_accuracy(ZooClassifier(zoo_of_two / NAME), test_images)
    assert again == card.robustness


def test_evaluate_command(
    zoo_of_two: Path, fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = Path(shutil.copytree(zoo_of_two, tmp_path / "zoo"))
    common = ["--zoo", str(zoo), "--data-dir", str(fashion)]
    pairs = ["--write", "--ensemble", "--json", str(tmp_path / PAIRS)]
    assert main(["evaluate", NAME, f"{NAME}-int8", *pairs, *common]) == 0
    judged, _ = read_judgements(tmp_path / "zoo.md")
    assert judged is not None
    assert (judged.n, len(judged.pairs)) == (10_000, 1)
    cards = {name: read_card(zoo / name) for name in (NAME, f"{NAME}-int8")}
    assert judged.sha256 == {name: card.file.sha256 for name, card in cards.items()}
    floating, integer = (card.accuracy for card in cards.values())
    assert floating is not None
    assert integer is not None
    assert judged.pairs[0].difference == pytest.approx(floating.value - integer.value)
    assert judged.averaged is not None
    assert (judged.averaged.networks, judged.averaged.accuracy) == ((NAME,), floating.value)
    assert main(["evaluate", NAME, *common]) == 0
    wrong = floating.model_copy(update={"value": 0.99, "correct": None})
    write_card(zoo / NAME, cards[NAME].model_copy(update={"accuracy": wrong}))
    capsys.readouterr()
    assert main(["evaluate", NAME, *common]) == 1
    assert "cards differ from the results: " in capsys.readouterr().err


def test_probabilities_of_huge_logits() -> None:
    found = probabilities(np.array([[1e4, 0, -1e4], [1, 1, 1]], dtype=np.float32))
    np.testing.assert_allclose(found, [[1, 0, 0], [1 / 3] * 3])


def test_mean_of_probabilities() -> None:
    sure, unsure = np.array([[9, 0]], dtype=np.float32), np.array([[0, 8]], dtype=np.float32)
    found = mean_probabilities([sure, unsure, unsure])
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3]], atol=1e-3)


@pytest.mark.photos
def test_stability_of_an_imagenet_model(photos: Path, tiny_models_dir: Path) -> None:
    found = stability(ZooClassifier(tiny_models_dir / "tiny"), photos, ("lomiri-wallpapers-20.04",), 2)
    assert (found.measure, found.n) == ("stability", 2)
    assert set(found.corruptions) == {"noise", "blur", "contrast", "brightness", "jpeg"}
