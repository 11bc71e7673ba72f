"""EfficientNet-Lite0 disguised in 24 ways: labelled pictures find its preprocessing again."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
import pytest

from models.zoo.card import Card, read_card
from models.zoo.files import NETWORKS
from models.zoo.labels import read_labels
from service.own_models.evidence import Evidence, Labelled, judge
from tests.helpers.disguise import RANGES, disguise

pytestmark = pytest.mark.photos

ROOT = Path(__file__).parents[3]
FOLDER = NETWORKS / "efficientnet-lite0"
STAMPS = ROOT / ".cache/stamps"

WAYS = [
    pytest.param(layout, order, range_, softmax, (number ^ number >> 1) & 1, id=f"{number}")
    for number, (layout, order, range_, softmax) in enumerate(
        itertools.product(("nchw", "nhwc"), ("rgb", "bgr"), RANGES, (False, True))
    )
]


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return onnx.load(FOLDER / "model.onnx")


@pytest.fixture(scope="module")
def pictures() -> list[Labelled]:
    """The stamps of tests/helpers/stamps.txt, which a person has labelled."""
    labels = read_labels(read_card(FOLDER), FOLDER)
    lines = (ROOT / "tests/helpers/stamps.txt").read_text().splitlines()
    return [
        Labelled(STAMPS / name, labels.index(label)) for name, label in (line.split("\t") for line in lines)
    ]


def card_for(layout: str, softmax: bool, background: int) -> Card:
    """What the file tells of itself, and an assumption: RGB from 0 to 1."""
    facts = read_card(FOLDER).model_dump(exclude_none=True, exclude={"classifier"})
    facts["schema_version"] = 2
    facts["input"] |= {"name": "x", "layout": layout, "mean": (0,) * 3, "std": (255,) * 3}
    facts["outputs"] = {
        "logits": (1000 + background,),
        "names": {"logits": "y"},
        "class_offset": background,
        "activation": "softmax" if softmax else "none",
    }
    return Card.model_validate(facts)


def wrong(evidence: Evidence, order: str, range_: str) -> list[str]:
    """The facts that the evidence claims and that are not so."""
    factor, summand = RANGES[range_]
    truth = {
        "input.mean": (evidence.input.mean, evidence.input.std) == ((summand,) * 3, (factor,) * 3),
        "input.colour_order": evidence.input.colour_order == order,
    }
    return [fact for fact, right in truth.items() if not right and fact not in evidence.undecided]


@pytest.mark.parametrize(("layout", "order", "range_", "softmax", "background"), WAYS)
def test_twenty_pictures_are_never_wrong_and_eighty_are_right(
    network: onnx.ModelProto,
    pictures: list[Labelled],
    layout: str,
    order: str,
    range_: str,
    softmax: bool,
    background: int,
) -> None:
    content = disguise(
        network,
        127,
        128,
        layout=layout,
        order=order,
        range_=range_,
        softmax=softmax,
        background=bool(background),
    ).SerializeToString()
    card = card_for(layout, softmax, background)
    few = judge(content, card, pictures[:: len(pictures) // 20][:20], fixed=("input.fitting",))
    assert few.pictures == 20
    assert wrong(few, order, range_) == []
    assert {order, range_} <= {*few.undecided.get("input.colour_order", (order,)),
                               *few.undecided.get("input.mean", (range_,))}  # fmt: skip
    many = judge(content, card, pictures[:80], fixed=("input.fitting",))
    assert many.pictures == 80
    assert many.undecided == {}
    assert wrong(many, order, range_) == []
