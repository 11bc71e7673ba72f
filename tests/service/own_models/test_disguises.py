"""EfficientNet-Lite0 disguised in 26 ways: `weighin add --images` finds out all of it again.

It is the int8 variant, for smaller pictures, which answers four times as fast and still knows what they show.
`python -m pytest -rP` prints what the pictures say of the fitting.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
import pytest
from PIL import Image

from models.zoo.card import InputSpec, read_card
from models.zoo.files import NETWORKS
from models.zoo.labels import BUILT_IN, read_labels
from service.own_models.add import Options, add
from service.own_models.sources.conventions import NORMALISATIONS
from service.own_models.sources.evidence import judge
from service.own_models.sources.pictures import Labelled
from tests.helpers.disguise import IMAGENET, RANGES, disguise, of_size, stretched
from tests.web.photographs import write_photographs

pytestmark = pytest.mark.photos

ROOT = Path(__file__).parents[3]
FOLDER = NETWORKS / "efficientnet-lite0-int8"
SIDE, RESIZE = 128, 146
SIZE = {"height": SIDE, "width": SIDE, "resize": RESIZE}
STAMPS = ROOT / ".cache/stamps"
PHOTOGRAPHS = {"chelsea": "tabby cat", "coffee": "espresso", "rocket": "missile"}
"""Photographs of scikit-image with labels, which a person has given."""

CROP, FILTERS = f"center-crop of {RESIZE}", ("bilinear", "bicubic")
"""The network's own fitting, and the filters: it is as good with either."""

WAYS = [
    pytest.param(layout, order, range_, softmax, (number ^ number >> 1) & 1, id=f"{number}")
    for number, (layout, order, range_, softmax) in enumerate(
        itertools.product(("nchw", "nhwc"), ("rgb", "bgr"), RANGES, (False, True))
    )
]


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return of_size(onnx.load(FOLDER / "model.onnx"), SIDE)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """PHOTOGRAPHS, and the stamps of tests/helpers/stamps.txt with their labels, which a person has given."""
    found = write_photographs(tmp_path_factory.mktemp("photographs"), list(PHOTOGRAPHS))
    lines = (ROOT / "tests/helpers/stamps.txt").read_text().splitlines()
    stamps = [(STAMPS / name, label) for name, label in (line.split("\t") for line in lines)]
    return [*((path, PHOTOGRAPHS[name]) for name, path in found.items()), *stamps]


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
    """Nothing is given. The labels lie beside the file, in WordNet's words."""
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
    result = add(file, Options(name="m", images=images), to=tmp_path / "zoo")
    card = result.card
    assert (card.input.layout, card.labels, card.classes) == (layout, "imagenet-1k", 1000)
    assert (card.class_offset, card.outputs["activation"]) == (background, "softmax" if softmax else "none")
    assert wrong(card.input, order, range_) == []
    decided = ["input.mean", "input.std", "input.colour_order"]
    decided += ["outputs.class_offset"] * background
    assert {path: card.provenance[path].origin for path in decided} == dict.fromkeys(decided, "pictures")
    assert {*card.doubtful} == {"input.fitting", "input.resize", "input.interpolation"}
    assert (card.input.fitting, card.input.resize) == ("center-crop", RESIZE)
    assert card.provenance["input.fitting"].undecided == (CROP, f"center-crop of {SIDE}", "letterbox")
    assert card.provenance["input.interpolation"].undecided == FILTERS
    assert any(line.endswith("of 80 pictures are named right") for line in result.warnings)
    print(  # noqa: T201
        card.provenance["input.fitting"].undecided,
        *(line for line in result.warnings if "fitting does better" in line),
    )

    labels = read_labels(card, result.folder)
    few = [Labelled(path, labels.index(label)) for path, label in pictures[:: len(pictures) // 20][:20]]
    plain = {"mean": (0.0,) * 3, "std": (255.0,) * 3, "colour_order": "rgb"}
    assumed = card.model_copy(update={"input": card.input.model_copy(update=plain)})
    evidence = judge((result.folder / "model.onnx").read_bytes(), assumed, few, fixed=())
    assert evidence.pictures == 20
    assert set(wrong(evidence.input, order, range_)) <= evidence.undecided.keys()
    assert {order, range_} <= {*evidence.undecided.get("input.colour_order", (order,)),
                               *evidence.undecided.get("input.mean", (range_,))}  # fmt: skip
    assert evidence.class_offset == background or "outputs.class_offset" in evidence.undecided
    assert CROP in evidence.undecided["input.fitting"]
    assert evidence.undecided["input.interpolation"] == FILTERS


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_imagenets_mean_and_deviation_stay_where_few_pictures_cannot_rule_them_out(
    network: onnx.ModelProto, pictures: list[tuple[Path, str]], order: str
) -> None:
    """0 to 1 and -1 to 1 do nearly as well on twenty pictures, and better on some of these sets."""
    content = disguise(network, 127, 128, order=order, range_=IMAGENET).SerializeToString()
    card = read_card(FOLDER)
    mean, std = NORMALISATIONS[IMAGENET]
    assumed = {"name": "x", "mean": mean, "std": std, "colour_order": "rgb"}
    spec = card.input.model_copy(update=SIZE | assumed)
    outputs = {"logits": (1000,), "names": {"logits": "y"}}
    card = card.model_copy(update={"schema_version": 2, "outputs": outputs, "input": spec})
    labels = read_labels(card, FOLDER)
    labelled = [Labelled(path, labels.index(label)) for path, label in pictures[:80]]
    fixed = ("input.fitting", "input.interpolation")
    step = 1 if order == "rgb" else -1
    for start in range(4):
        few = judge(content, card, labelled[start::4], fixed=fixed)
        print(few.decided, few.undecided)  # noqa: T201
        assert few.pictures == 20
        if few.input.colour_order == order:
            assert few.input.mean == mean[::step]
        else:
            assert "input.colour_order" in few.undecided
        assert IMAGENET in few.undecided.get("input.mean", (IMAGENET,))
    all_ = judge(content, card, labelled, fixed=fixed)
    print(all_.decided, all_.undecided)  # noqa: T201
    assert (all_.input.mean, all_.input.std) == (mean[::step], std[::step])
    assert all_.input.colour_order == order
    assert set(all_.decided) == {"input.mean", "input.colour_order"}


def test_a_network_of_squeezed_photographs_is_given_them(
    network: onnx.ModelProto, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    """As if it had been trained on photographs twice as wide as high, squeezed to squares."""
    model = stretched(network, 2)
    card = read_card(FOLDER)
    spec = card.input.model_copy(update=SIZE | {"name": "x"})
    card = card.model_copy(update={"outputs": {"logits": (1000,)}, "input": spec})
    labels = read_labels(card, FOLDER)
    wide = []
    for number, (path, label) in enumerate(pictures):
        image = Image.open(path).convert("RGBA")
        high = max(image.height, image.width // 2)
        canvas = Image.new("RGBA", (2 * high, high), "white")
        canvas.alpha_composite(image, ((canvas.width - image.width) // 2, (high - image.height) // 2))
        canvas.convert("RGB").save(tmp_path / f"{number}.png")
        wide.append(Labelled(tmp_path / f"{number}.png", labels.index(label)))
    evidence = judge(model.SerializeToString(), card, wide, fixed=("input.mean", "input.colour_order"))
    print(evidence.decided, evidence.undecided, evidence.fitting)  # noqa: T201
    assert evidence.input.fitting == "stretch"
