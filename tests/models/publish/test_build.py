"""Building the zoo: reproducibility, and failed builds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.cli import main
from models.data.photos import MissingPhotosError
from models.publish.build import JUDGED_ON, build, names, photo_agreement, replace_folder
from models.publish.detectors import DETECTOR_RECIPES
from models.publish.recipes import RECIPES
from models.zoo.card import read_card
from tests.models.zoo.card_facts import untrue_facts

pytestmark = [pytest.mark.torch, pytest.mark.photos]


def test_rebuilt_models_equal_the_zoo(
    photos: Path, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("efficientnet-lite0", "efficientnet-lite0-int8"):
        assert main(["build", name, "--photos", str(photos), "--output", str(tmp_path)]) == 0
        assert untrue_facts(tmp_path / name) == []
        built, committed = read_card(tmp_path / name), read_card(zoo / name)
        assert built.file.bytes == committed.file.bytes
        assert committed.robustness is not None  # `evaluate --corruptions --write` adds it
        volatile = {"file": built.file, "agreement": built.agreement, "robustness": None}
        assert built == committed.model_copy(update=volatile)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("efficientnet-lite0: 18.5 MB")
    assert "top-1 agreement with efficientnet-lite0 9" in printed[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == names()[:2]


@pytest.mark.parametrize("name", list(RECIPES))
def test_stated_agreement_is_reproducible(name: str, photos: Path, zoo: Path) -> None:
    card = read_card(zoo / f"{name}-int8")
    stated = card.agreement
    assert stated is not None
    assert all(package in stated.how for package in JUDGED_ON)
    compared = photo_agreement(
        zoo / name / "model.onnx", zoo / f"{name}-int8" / "model.onnx", RECIPES[name].input, photos
    )
    assert compared.n == stated.n
    # Processors sum in different orders, which changes the class of a few images.
    assert compared.top_1_agreement == pytest.approx(stated.value, abs=0.015)


@pytest.mark.parametrize("name", list(DETECTOR_RECIPES))
def test_rebuilt_detectors_equal_the_zoo(
    name: str, photos: Path, published: Path, zoo: Path, tmp_path: Path
) -> None:
    options = ["--photos", str(photos), "--published", str(published), "--output", str(tmp_path)]
    for model in (name, f"{name}-int8"):
        if model not in names():
            continue
        assert main(["build", model, *options]) == 0
        assert untrue_facts(tmp_path / model) == []
        built, committed = read_card(tmp_path / model), read_card(zoo / model)
        assert built.file.bytes == committed.file.bytes
        assert built == committed.model_copy(update={"file": built.file})


def test_detector_without_its_published_file(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--photos", str(photos), "--published", str(tmp_path / "none"), "--output", str(tmp_path)]
    assert main(["build", "ssd-mobilenet-v2", *options]) == 1
    assert "not there; run: make detectors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_name(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe 'resnet-9000': unknown \(allowed: efficientnet-lite0, "):
        build("resnet-9000", photos, tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


def test_int8_model_without_parent(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "efficientnet-lite0-int8", "--photos", str(photos), "--output", str(tmp_path)]) == 1
    assert "efficientnet-lite0/card.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_photographs_leave_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "zoo" / "efficientnet-lite0"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"as it was")
    with pytest.raises(MissingPhotosError, match="make photos"):
        build("efficientnet-lite0", tmp_path / "nowhere", tmp_path / "zoo", tmp_path)
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["efficientnet-lite0"]
    assert (folder / "model.onnx").read_bytes() == b"as it was"


def test_atomic_replacement_of_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replace_folder(target) as folder:
        (folder / "a").write_text("first")

    def fail_half_way() -> None:
        with replace_folder(target) as folder:
            (folder / "b").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("a", "first")]
    with replace_folder(target) as folder:
        (folder / "c").write_text("second")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
