"""`weighin evaluate` on Fashion-MNIST's test set, written as a folder of PNG files a class."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.fashion_mnist import load_test
from models.evaluate.accuracy import TOLERATED, ZooClassifier
from models.evaluate.significance import read_judgements
from models.zoo.card import Card, read_card
from models.zoo.labels import BUILT_IN
from models.zoo.machine import this_machine
from service.evaluation.result import Evaluation, read_evaluation
from tests.helpers.command_line import weighin

pytestmark = pytest.mark.torch  # needs no torch, but the data set that `make test-models` fetches

ROOT = Path(__file__).resolve().parents[3]
UNSTATED = {"fma", "avx512bw", "avx512vl"}
"""Instructions that processors with AVX-512 have, and that cards do not list."""


@pytest.fixture(scope="module")
def cards(zoo: Path) -> dict[str, Card]:
    """Return the cards of the Fashion-MNIST models with an accuracy that was measured here."""
    cards = [read_card(folder) for folder in sorted(zoo.iterdir())]
    return {
        card.name: card
        for card in cards
        if card.labels == "fashion-mnist" and card.accuracy is not None and card.accuracy.kind == "measured"
    }


@pytest.fixture(scope="module")
def pictures(fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 10 000 PNG files and the copy of one of them."""
    folder = tmp_path_factory.mktemp("fashion")
    labels = (BUILT_IN / "fashion-mnist.txt").read_text().splitlines()
    images = load_test(fashion)
    for label in labels:
        (folder / name_of(label)).mkdir()
    for index, (pixels, class_id) in enumerate(zip(images.pixels, images.classes, strict=True)):
        Image.fromarray(pixels).save(folder / name_of(labels[class_id]) / f"{index:05}.png")
    first = folder / name_of(labels[images.classes[0]])
    shutil.copyfile(first / "00000.png", first / "copy of the first.png")
    return folder


@pytest.fixture(scope="module")
def evaluation(
    zoo: Path, pictures: Path, cards: dict[str, Card], tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    folder = tmp_path_factory.mktemp("evaluated")
    written = folder / "evaluation.json"
    names = ",".join(cards)
    command = ["evaluate", "--data", str(pictures), "--models", names, "--json", str(written)]
    result = weighin(zoo, folder / "data", *command)
    assert result.returncode == 0, result.stderr
    return read_evaluation(written)


def test_every_card_has_its_number_of_correct_images(evaluation: Evaluation, cards: dict[str, Card]) -> None:
    assert len(cards) >= 18
    assert {model.name for model in evaluation.models} == set(cards)
    assert (evaluation.data.pictures, evaluation.data.n) == (10_001, 10_000)
    assert [each.same_as for each in evaluation.data.duplicates] == ["Ankle boot/00000.png"]
    for model in evaluation.models:
        accuracy = cards[model.name].accuracy
        assert accuracy is not None
        assert accuracy.correct is not None
        assert model.classification is not None
        off = abs(model.classification.top1.correct - accuracy.correct)
        assert off <= (0 if on_the_machine_of(cards[model.name]) else TOLERATED), model.name


@pytest.mark.parametrize("name", ["fashion-depthwise-separable", "fashion-inverted-residual-int8"])
def test_each_picture_is_classified_as_its_pixels_are(
    name: str, evaluation: Evaluation, pictures: Path, fashion: Path, zoo: Path
) -> None:
    """The same answers as without any file, picture by picture, on whatever machine this is."""
    images = load_test(fashion)
    right = ZooClassifier(zoo / name).classes(images.pixels) == images.classes
    files = {int(path.stem): path for path in pictures.glob("*/[0-9]*.png")}
    order = sorted(files, key=lambda index: hashlib.sha256(files[index].read_bytes()).hexdigest())
    model = evaluation.model(name)
    assert model is not None
    assert model.classification is not None
    np.testing.assert_array_equal(model.classification.right, right[order])


def test_pairs_are_those_of_the_zoo_s_page(evaluation: Evaluation, cards: dict[str, Card]) -> None:
    """docs/zoo-pairs.json comes from `python -m models evaluate`."""
    page, _ = read_judgements(ROOT / "docs/zoo.md")
    assert page is not None
    exact = all(on_the_machine_of(card) for card in cards.values())
    assert len(page.pairs) == len(evaluation.pairs) == 153
    differences = {(pair.first, pair.second): pair.difference for pair in page.pairs}
    for pair in evaluation.pairs:
        forward = (pair.first, pair.second) in differences
        stated = differences[pair.first, pair.second] if forward else -differences[pair.second, pair.first]
        assert pair.difference == pytest.approx(stated, abs=1e-6 if exact else 2 * TOLERATED / 10_000)
        p = page.p(pair.first, pair.second)
        assert p is not None
        if exact:
            assert pair.p == pytest.approx(p, rel=1e-6)
        if p < 0.001:
            assert pair.verdict == ("first better" if stated > 0 else "second better")
        if p > 0.5:
            assert pair.verdict == "not distinguishable"


def name_of(label: str) -> str:
    """Return the name of a class's folder: `T-shirt` for `T-shirt/top`."""
    return label.split("/")[0]


def on_the_machine_of(card: Card) -> bool:
    """Return whether the accuracy of the card was measured with this machine's instructions."""
    assert card.accuracy is not None
    stated, here = set((card.accuracy.instruction_set or "").split()), set(this_machine().instruction_set)
    return stated <= here <= stated | UNSTATED
