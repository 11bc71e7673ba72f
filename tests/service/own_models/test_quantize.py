"""A float model made int8: judged on other pictures, written beside it, refused where it will not do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from models.onnx_tools.describe import describe
from models.zoo.card import read_card
from service.cli.schemas import QuantizedModel
from service.errors import ModelExists, RefusedModel
from service.inference.registry import Registry
from service.own_models.add import Options as AddOptions
from service.own_models.add import add
from service.own_models.quantize import Options, Quantized, quantize_model
from tests.helpers.command_line import parsed, weighin
from tests.helpers.foreign import network, save
from tests.service.bench.doctor.networks import Network, small

SIDE = 56


def pictures(folder: Path, count: int, *, seed: int, contrast: float = 1.0, side: int = SIDE) -> Path:
    """Pictures of random coloured squares, of a mean colour of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        squares = random.normal(random.uniform(60, 190, 3), 60, (8, 8, 3))
        pixels = np.clip(127 + contrast * (squares - 127), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        image.save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = tmp_path_factory.mktemp("zoo")
    small().save(zoo, "small")
    return zoo


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures") / "calibration", 16, seed=1)


def sorted_by_class(zoo: Path, flat: Path, target: Path) -> Path:
    """Put each picture into the folder of the class that the float model predicts."""
    registry = Registry([zoo], "small")
    registry.load()
    model = registry.get("small")
    for path in sorted(flat.iterdir()):
        pixels = np.asarray(Image.open(path)).astype(np.float32)
        image = ((pixels - 127) / 128).transpose(2, 0, 1)[None]
        name = model.labels[int(model.session.run(np.ascontiguousarray(image))["logits"].argmax())]
        (target / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / name / path.name)
    return target


def made(zoo: Path, to: Path, calibrate: Path, model: str = "small", **options: object) -> Quantized:
    registry = Registry([zoo], model)
    return quantize_model(registry, model, Options(calibrate=calibrate, **options), to=to)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_int8_model_is_served_and_its_card_has_the_evidence(
    zoo: Path, calibration: Path, tmp_path: Path
) -> None:
    flat = pictures(tmp_path / "flat", 40, seed=2)
    judge = sorted_by_class(zoo, flat, tmp_path / "judge")
    result = made(zoo, tmp_path / "models", calibration, judge=judge, max_loss=50)
    card = read_card(tmp_path / "models" / "small-int8")
    assert card == result.card
    assert (card.precision, card.derived_from, card.labels) == ("int8", "small", "tiny-10")
    assert card.agreement is not None
    assert card.agreement.value >= 0.8
    assert card.agreement.n == 40
    assert (
        card.agreement.how
        == "same top-1 class on 40 pictures in judge, calibrated on 16 pictures in calibration"
    )
    assert card.accuracy is not None
    # The float model's own predictions are the labels.
    assert (card.accuracy.kind, card.accuracy.value) == ("measured", card.agreement.value)
    assert any("float names 100.0% of 40 right" in note and "McNemar" in note for note in card.notes)
    assert card.provenance["agreement"].origin == "pictures"
    content = (result.folder / "model.onnx").read_bytes()
    assert describe(content).precision == "int8"
    assert len(content) < 0.6 * read_card(zoo / "small").file.bytes
    registry = Registry([zoo, tmp_path / "models"], "small")
    registry.load()
    assert registry.get("small-int8").labels == registry.get("small").labels
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["small-int8"]


@pytest.mark.slow
def test_a_loss_beyond_the_limit_is_refused_and_one_that_may_be_warned_of(
    zoo: Path, calibration: Path, tmp_path: Path
) -> None:
    # Contrasts of a quantization step or two: int8 cannot tell these pictures apart as float does.
    flat = pictures(tmp_path / "flat", 60, seed=3, contrast=0.02)
    judge = sorted_by_class(zoo, flat, tmp_path / "judge")
    with pytest.raises(RefusedModel, match=r"loses \d+\.\d+ points .* on \d+ pictures, --max-loss is 0\.5"):
        made(zoo, tmp_path / "models", calibration, judge=judge)
    assert not (tmp_path / "models").exists()
    few = pictures(tmp_path / "few", 12, seed=4)
    result = made(
        zoo, tmp_path / "models", calibration, judge=sorted_by_class(zoo, few, tmp_path / "judge-few")
    )
    assert any("pictures do not show whether it is more than the 0.5 points" in w for w in result.warnings)
    assert any("calibrated on 16 pictures only" in warning for warning in result.warnings)


@pytest.mark.slow
def test_without_judging_pictures_some_are_held_out(zoo: Path, calibration: Path, tmp_path: Path) -> None:
    result = made(zoo, tmp_path, calibration)
    assert result.judgement.n == 4
    assert result.card.agreement is not None
    assert "calibrated on 12 others of the same folder" in result.card.agreement.how
    assert result.card.accuracy is None
    assert any("the loss of accuracy is not known" in warning for warning in result.warnings)


def test_the_same_pictures_on_both_sides_are_refused(zoo: Path, calibration: Path, tmp_path: Path) -> None:
    judge = pictures(tmp_path / "judge", 3, seed=5)
    shutil.copy(calibration / "003.png", judge / "copied.png")
    Image.open(calibration / "004.png").save(judge / "encoded again.bmp")
    with pytest.raises(
        RefusedModel, match=r"2 pictures are in --calibrate too: copied\.png \(is 003\.png\)"
    ) as e:
        made(zoo, tmp_path / "models", calibration, judge=judge)
    assert "encoded again.bmp (is 004.png)" in str(e.value)


@pytest.mark.slow
def test_pictures_that_will_not_do_are_refused_or_named(zoo: Path, calibration: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedModel, match="--calibrate empty: no pictures"):
        made(zoo, tmp_path / "models", tmp_path / "empty")
    with pytest.raises(RefusedModel, match="--calibrate missing: cannot be read"):
        made(zoo, tmp_path / "models", tmp_path / "missing")
    few = pictures(tmp_path / "few", 5, seed=6)
    (few / "notes.txt").write_text("no picture")
    judge = pictures(tmp_path / "judge", 3, seed=5)
    with pytest.raises(
        RefusedModel, match=r"5 different pictures can be read \(allowed: 8 or more\).*notes\.txt"
    ):
        made(zoo, tmp_path / "models", few, judge=judge)
    (judge / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    result = made(zoo, tmp_path / "models", calibration, judge=judge)
    assert any(
        warning.startswith("--judge: 1 files cannot be read (broken.jpg") for warning in result.warnings
    )


def test_models_that_are_not_float32_are_refused(tmp_path: Path, calibration: Path) -> None:
    small(Network(quantized=True)).save(tmp_path, "integers")
    with pytest.raises(RefusedModel, match="model 'integers': is int8 already"):
        made(tmp_path, tmp_path / "models", calibration, "integers")
    file = save(tmp_path / "half.onnx", kind=TensorProto.FLOAT16)
    add(file, AddOptions(name="half"), to=tmp_path)
    with pytest.raises(RefusedModel, match=r"model 'half': is float16 .* export the network in float32"):
        made(tmp_path, tmp_path / "models", calibration, "half")


def test_a_name_that_exists_is_refused(zoo: Path, calibration: Path, tmp_path: Path) -> None:
    (tmp_path / "small-int8").mkdir()
    (tmp_path / "small-int8" / "card.json").write_text("{}")
    with pytest.raises(ModelExists, match="model 'small-int8': exists"):
        made(zoo, tmp_path, calibration)
    with pytest.raises(ModelExists, match="exists in WEIGHIN_MODEL_DIRS"):
        quantize_model(
            Registry([zoo], "small"), "small", Options(calibrate=calibration, name="small"),
            to=tmp_path, taken=("small",),
        )  # fmt: skip


FORMS: dict[str, dict[str, object]] = {
    "nhwc, uint8": {"layout": "nhwc", "kind": TensorProto.UINT8},
    "fixed batch": {"batch": 4},
    "free size": {"shape": ["N", 3, "height", "width"]},
    "softmax, old opset": {"activation": "Softmax", "weights_as_inputs": True, "opset": 9, "ir_version": 4},
    "one sigmoid": {"activation": "Sigmoid", "classes": 1},
    "grey": {"channels": 1},
    "background": {"classes": 1001},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_networks_of_every_form_are_quantized(form: str, tmp_path: Path) -> None:
    file = save(tmp_path / "given" / "foreign.onnx", network(**FORMS[form]))  # type: ignore[arg-type]
    size = {"input.size": (16, 16)} if form == "free size" else {}
    add(file, AddOptions(name="foreign", facts=size), to=tmp_path / "zoo")
    calibrate = pictures(tmp_path / "calibrate", 12, seed=7, side=20)
    judge = pictures(tmp_path / "judge", 12, seed=8, side=20)
    result = made(tmp_path / "zoo", tmp_path / "models", calibrate, "foreign", judge=judge)
    assert result.judgement.same >= 10
    weights = {
        tensor.data_type
        for tensor in onnx.load_from_string(result.content).graph.initializer
        if len(tensor.dims) == 4
    }
    assert weights == {TensorProto.INT8}
    registry = Registry([tmp_path / "zoo", tmp_path / "models"], "foreign")
    registry.load()
    assert registry.entry("foreign-int8").problem is None


@pytest.mark.slow
def test_the_command_says_whether_int8_pays(zoo: Path, calibration: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = weighin(zoo, data, "quantize", "small", "--calibrate", str(calibration), "--json")
    assert done.returncode == 0, done.stderr
    parsed(QuantizedModel, done.stdout)
    answer = json.loads(done.stdout)
    assert answer["name"] == "small-int8"
    assert answer["card"]["derived_from"] == "small"
    assert answer["int8"]["verdict"] in ("pays", "does not pay", "undecided")
    assert answer["int8"]["speedup_low"] <= answer["int8"]["speedup"] <= answer["int8"]["speedup_high"]
    assert answer["int8"]["int8_bytes"] < answer["int8"]["float_bytes"]
    assert (data / "models" / "small-int8" / "card.json").exists()
    again = weighin(zoo, data, "quantize", "small", "--calibrate", str(calibration))
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("weighin: model 'small-int8': exists")
    done = weighin(
        zoo,
        data,
        "quantize",
        "small",
        "--calibrate",
        str(calibration),
        "--name",
        "other",
        "--to",
        str(tmp_path / "zoo"),
    )
    assert done.returncode == 0, done.stderr
    assert "on this machine" in done.stdout
    assert " times as fast (95 % interval " in done.stdout
    assert "the same top-1 class on " in done.stdout
    assert (tmp_path / "zoo" / "other" / "model.onnx").exists()
