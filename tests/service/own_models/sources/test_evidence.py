"""Preprocessing by evidence, on a network that names colours and pictures of one colour each."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from models.zoo.card import Card, read_card
from service.inference.session import OnnxSession
from service.own_models.sources.conventions import NORMALISATIONS
from service.own_models.sources.evidence import _spread, judge
from service.own_models.sources.pictures import Labelled
from tests.helpers.disguise import RANGES, disguise
from tests.helpers.networks import SIDE, save_network

LEVELS = (30, 100, 160, 230)
COLOURS = np.array(list(itertools.product(LEVELS, repeat=3)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for (rgb - 127) / 127 whose classes are the nearest of COLOURS."""
    centres = (COLOURS - 127) / 127
    weights = {"head.weight": (40 * centres.T).astype(np.float32)}
    bias = (-20 * (centres**2).sum(axis=1)).astype(np.float32)
    zoo = tmp_path_factory.mktemp("zoo")
    return save_network(zoo, "colours", classes=len(COLOURS), weights=weights, bias=bias)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    """60 pictures of COLOURS in turn, each somewhat off."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    pictures = []
    for number in range(60):
        class_id = number * 11 % len(COLOURS)
        colour = np.clip(COLOURS[class_id] + random.normal(0, 12, 3), 0, 255)
        pixels = np.clip(random.normal(colour, 10, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        pictures.append(Labelled(folder / f"{number}.png", class_id))
    return pictures


def disguised(plain: Path, **form: Any) -> tuple[bytes, Card]:
    """The network of `plain` in another form, and a card that assumes RGB from 0 to 1."""
    model = disguise(onnx.load(plain / "model.onnx"), 127, 127, **form)
    background, softmax = bool(form.get("background")), bool(form.get("softmax"))
    facts = read_card(plain).model_dump(exclude_none=True)
    facts |= {"schema_version": 2, "name": "disguised"}
    facts["input"] |= {"name": "x", "layout": form.get("layout", "nchw"), "mean": (0,) * 3, "std": (255,) * 3}
    facts["outputs"] = {
        "logits": (len(COLOURS) + background,),
        "names": {"logits": "y"},
        "class_offset": int(background),
        "activation": "softmax" if softmax else "none",
    }
    return model.SerializeToString(), Card.model_validate(facts)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize(
    "form", [{}, {"layout": "nhwc", "softmax": True, "background": True}], ids=["plain", "tf"]
)
def test_pictures_decide_range_and_colour_order(
    plain: Path, pictures: list[Labelled], order: str, range_: str, form: dict[str, Any]
) -> None:
    evidence = judge(*disguised(plain, order=order, range_=range_, **form), pictures, fixed=())
    factor, summand = RANGES[range_]
    assert evidence.input.colour_order == order
    assert evidence.input.mean == (summand,) * 3
    assert evidence.input.std == (factor,) * 3
    assert set(evidence.undecided) == {"input.fitting", "input.interpolation"}
    assert evidence.decided["input.mean"].startswith(f"{range_}: ")
    assert "20 pictures" in evidence.decided["input.colour_order"]
    assert evidence.correct > 45


@pytest.mark.slow
def test_a_normalisation_that_only_makes_logits_larger_gains_nothing(tmp_path: Path) -> None:
    """Six colours far apart: a network for -1 to 1 is right, and surer, with ImageNet's deviation too."""
    colours = np.array(
        [(230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 30), (230, 30, 230), (30, 230, 230)]
    )
    centres = (colours - 127.5) / 127.5
    weights = {"head.weight": (2 * centres.T).astype(np.float32)}
    bias = (-(centres**2).sum(axis=1)).astype(np.float32)
    folder = save_network(tmp_path, "far", classes=6, weights=weights, bias=bias)
    facts = read_card(folder).model_dump(exclude_none=True) | {"schema_version": 2}
    facts["input"] |= {"mean": (0,) * 3, "std": (255,) * 3}
    random = np.random.default_rng(1)
    far = []
    for number in range(60):
        pixels = random.normal(colours[number % 6], 40, (24, 24, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        far.append(Labelled(tmp_path / f"{number}.png", number % 6))
    evidence = judge((folder / "model.onnx").read_bytes(), Card.model_validate(facts), far, fixed=())
    ranges = evidence.undecided.get("input.mean", (evidence.decided.get("input.mean", "").split(":")[0],))
    assert "-1 to 1" in ranges
    assert evidence.input.colour_order == "rgb"
    assert evidence.correct == 60


def test_what_few_pictures_cannot_tell_apart_is_undecided(plain: Path, pictures: list[Labelled]) -> None:
    grey = [picture for picture in pictures if len(set(COLOURS[picture.class_id])) == 1]
    evidence = judge(*disguised(plain, order="bgr"), grey, fixed=())
    assert evidence.undecided["input.colour_order"] == ("rgb", "bgr")
    assert evidence.input.colour_order == "rgb"
    assert "input.colour_order" not in evidence.decided


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize(
    ("mean", "std"), [(m, s) for m, s in NORMALISATIONS.values()], ids=list(NORMALISATIONS)
)
def test_few_pictures_keep_what_is_assumed_unless_they_rule_it_out(
    count: int, mean: tuple[float, ...], std: tuple[float, ...], plain: Path, pictures: list[Labelled]
) -> None:
    content, card = disguised(plain, order="bgr")
    changes = {"mean": mean[::-1], "std": std[::-1], "colour_order": "bgr"}
    card = card.model_copy(update={"input": card.input.model_copy(update=changes)})
    evidence = judge(content, card, pictures[:count], fixed=())
    assert len(evidence.undecided["input.mean"]) > 1
    assert evidence.input == card.input


def test_equal_inputs_run_once(
    plain: Path, pictures: list[Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square pictures of the input's size are the same in all fittings but one, and after each stage."""
    inputs: list[bytes] = []
    run = OnnxSession.run

    def recorded(session: OnnxSession, images: Any, *outputs: Any) -> Any:
        inputs.append(images.tobytes())
        return run(session, images, *outputs)

    monkeypatch.setattr(OnnxSession, "run", recorded)
    first = judge(*disguised(plain, order="bgr"), pictures[:8], fixed=("input.fitting",))
    assert len(inputs) == len(set(inputs)) > 8 * 10
    assert judge(*disguised(plain, order="bgr"), pictures[:8], fixed=("input.fitting",)) == first


@pytest.mark.slow
def test_fixed_facts_are_not_varied(plain: Path, pictures: list[Labelled]) -> None:
    content, card = disguised(plain, order="bgr")
    fixed = ("input.mean", "input.colour_order", "input.fitting", "input.interpolation")
    evidence = judge(content, card, pictures, fixed=fixed)
    assert evidence.input == card.input
    assert evidence.decided == evidence.undecided == {}
    assert evidence.fitting is None


def test_unreadable_pictures_are_named(plain: Path, pictures: list[Labelled], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    broken = [Labelled(tmp_path / "broken.jpg", 0), Labelled(tmp_path / "missing.jpg", 0)]
    evidence = judge(*disguised(plain), [*pictures, *broken], fixed=())
    assert evidence.pictures == len(pictures)
    assert set(evidence.unreadable) == {tmp_path / "broken.jpg", tmp_path / "missing.jpg"}
    with pytest.raises(ValueError, match="none of 2 can be read"):
        judge(*disguised(plain), broken, fixed=())


@pytest.mark.slow
def test_a_picture_counts_that_has_the_name_of_one_that_cannot_be_read(
    plain: Path, pictures: list[Labelled], tmp_path: Path
) -> None:
    same = []
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}").mkdir()
        path = tmp_path / f"{number}" / "1.png"
        path.write_bytes(picture.path.read_bytes() if number else b"nothing")
        same.append(Labelled(path, picture.class_id))
    evidence = judge(*disguised(plain), same, fixed=())
    assert list(evidence.unreadable) == [tmp_path / "0" / "1.png"]
    assert evidence.pictures == 59
    spec = evidence.input
    fixed = ("input.mean", "input.colour_order")
    content, card = disguised(plain)
    again = judge(content, card.model_copy(update={"input": spec}), same[1:], fixed=fixed)
    assert (again.correct, again.fitting) == (evidence.correct, evidence.fitting)


def test_copies_of_a_picture_count_once(plain: Path, pictures: list[Labelled], tmp_path: Path) -> None:
    copies = []
    for number in range(20):
        path = tmp_path / f"{number}.png"
        path.write_bytes(pictures[5].path.read_bytes())
        copies.append(Labelled(path, pictures[5].class_id))
    evidence = judge(*disguised(plain, order="bgr"), copies, fixed=())
    assert (evidence.pictures, len(evidence.copies)) == (1, 19)
    assert evidence.decided == {}


@pytest.mark.slow
def test_what_is_printed_agrees_with_the_test(plain: Path, pictures: list[Labelled]) -> None:
    """Rivals that ran on the first 20 pictures are compared on these, as they were when they were left."""
    for order, range_ in itertools.product(("rgb", "bgr"), RANGES):
        evidence = judge(*disguised(plain, order=order, range_=range_), pictures, fixed=())
        for words in evidence.decided.values():
            found = re.search(r"higher by (\S+) \((\S+) to (\S+)\)", words)
            assert found is not None, words
            mean, low, high = map(float, found.groups())
            assert 0 < low < mean < high


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 10, 50])
def test_pictures_are_taken_evenly_of_all_classes(each: int) -> None:
    pictures = [Labelled(Path(f"{number:05}"), number // each) for number in range(1000 * each)]
    taken = _spread(pictures)
    assert len({picture.class_id for picture in taken}) == 200
    for beginning in (20, 40, 80, 200):
        classes = sorted(picture.class_id for picture in taken[:beginning])
        gaps = np.diff([0, *classes, 999])
        assert gaps.max() <= 3 * 1000 / beginning
    few = _spread([Labelled(Path(f"{number}"), number % 2) for number in range(30)])
    assert sorted(int(picture.path.name) for picture in few) == list(range(30))
    assert sum(int(picture.path.name) >= 15 for picture in few[:10]) in (4, 5, 6)


def test_disguise_keeps_what_the_network_says(plain: Path) -> None:
    image = np.random.default_rng(0).normal(0, 1, (2, 3, SIDE, SIDE)).astype(np.float32)
    expected = OnnxSession((plain / "model.onnx").read_bytes(), read_card(plain)).run(image)["logits"]
    content, card = disguised(plain, order="bgr", range_="-1 to 1", layout="nhwc", background=True)
    given = ((image * 127 + 127) - 127.5) / 127.5
    session = OnnxSession(content, card)
    np.testing.assert_allclose(session.run(given[:, ::-1].copy())["logits"], expected, atol=1e-4)
