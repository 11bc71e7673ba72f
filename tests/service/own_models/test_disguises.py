"""EfficientNet-Lite0 disguised in 24 ways: `weighin add --images` finds out all of it again."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
import pytest

from models.zoo.card import InputSpec, read_card
from models.zoo.files import NETWORKS
from models.zoo.labels import BUILT_IN, read_labels
from service.own_models.add import Options, add
from service.own_models.sources.evidence import Labelled, judge
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
def pictures() -> list[tuple[Path, str]]:
    """The stamps of tests/helpers/stamps.txt with their labels, which a person has given."""
    lines = (ROOT / "tests/helpers/stamps.txt").read_text().splitlines()
    return [(STAMPS / name, label) for name, label in (line.split("\t") for line in lines)]


@pytest.fixture(scope="module")
def images(pictures: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 of them in a folder for each class."""
    images = tmp_path_factory.mktemp("images")
    for number, (path, label) in enumerate(pictures[:80]):
        (images / label).mkdir(exist_ok=True)
        (images / label / f"{number}{path.suffix}").symlink_to(path)
    return images


def wrong(spec: InputSpec, order: str, range_: str) -> list[str]:
    """The facts that are not so."""
    factor, summand = RANGES[range_]
    truth = {
        "input.mean": (spec.mean, spec.std) == ((summand,) * 3, (factor,) * 3),
        "input.colour_order": spec.colour_order == order,
    }
    return [fact for fact, right in truth.items() if not right]


@pytest.mark.parametrize(("layout", "order", "range_", "softmax", "background"), WAYS)
def test_twenty_pictures_are_never_wrong_and_eighty_are_right(
    network: onnx.ModelProto,
    pictures: list[tuple[Path, str]],
    images: Path,
    tmp_path: Path,
    layout: str,
    order: str,
    range_: str,
    softmax: bool,
    background: int,
) -> None:
    """Only the fitting is given. The labels lie beside the file, in WordNet's words."""
    model = disguise(
        network,
        127,
        128,
        layout=layout,
        order=order,
        range_=range_,
        softmax=softmax,
        background=bool(background),
    )
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / "disguised.onnx"
    file.write_bytes(model.SerializeToString())
    (tmp_path / "given" / "labels.txt").write_bytes((BUILT_IN / "synonyms/imagenet-1k.txt").read_bytes())
    own = read_card(FOLDER).input
    fitting = {f"input.{name}": getattr(own, name) for name in ("fitting", "resize", "interpolation")}
    result = add(file, Options(name="m", images=images, facts=fitting), to=tmp_path / "zoo")
    card = result.card
    assert (card.input.layout, card.labels, card.classes) == (layout, "imagenet-1k", 1000)
    assert (card.class_offset, card.outputs["activation"]) == (background, "softmax" if softmax else "none")
    assert wrong(card.input, order, range_) == []
    assert card.doubtful == ()
    assert [card.provenance[f"input.{name}"].origin for name in ("mean", "std", "colour_order")] == [
        "pictures"
    ] * 3
    assert any(line.endswith("of 80 pictures are named right") for line in result.warnings)

    labels = read_labels(card, result.folder)
    few = [Labelled(path, labels.index(label)) for path, label in pictures[:: len(pictures) // 20][:20]]
    plain = {"mean": (0.0,) * 3, "std": (255.0,) * 3, "colour_order": "rgb"}
    assumed = card.model_copy(update={"input": card.input.model_copy(update=plain)})
    evidence = judge((result.folder / "model.onnx").read_bytes(), assumed, few, fixed=("input.fitting",))
    assert evidence.pictures == 20
    assert set(wrong(evidence.input, order, range_)) <= evidence.undecided.keys()
    assert {order, range_} <= {*evidence.undecided.get("input.colour_order", (order,)),
                               *evidence.undecided.get("input.mean", (range_,))}  # fmt: skip
