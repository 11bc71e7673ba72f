"""The gain from a teacher is judged only over otherwise equal trainings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.cli import main
from models.data.fashion_mnist import load_test, load_train
from models.evaluate.significance import GAIN, read_judgements
from models.publish.publish import Origin, evenly_spaced, publish
from models.train.family import load_trained, run_folder
from models.zoo.card import read_card, write_card

pytestmark = pytest.mark.torch

STUDENT = "fashion-standard-equal-macs"
OTHER = "fashion-depthwise-separable"


@pytest.fixture(scope="module")
def limits(fashion: Path) -> list[str]:
    return ["--limit", "128", "--epochs", "1", "--threads", "1", "--data-dir", str(fashion)]


@pytest.fixture(scope="module")
def trained(limits: list[str], fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs of two teachers, and with the zoo in which they are published."""
    folder = tmp_path_factory.mktemp("trained")
    train, test = evenly_spaced(load_train(fashion), 64), evenly_spaced(load_test(fashion), 20)
    for name in (STUDENT, OTHER):
        assert main(["train", name, *limits, "--runs", str(folder)]) == 0
        run = load_trained(run_folder(folder, name, 0))
        publish(name, *run, Origin("a test"), folder / "zoo", train, test)
    return folder


@pytest.fixture
def few(limits: list[str], tmp_path: Path) -> list[str]:
    return [*limits, "--runs", str(tmp_path)]


@pytest.fixture
def distill(trained: Path, tmp_path: Path) -> list[str]:
    """Return the command with two published teachers, without seeds and limits."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return ["distill", STUDENT, "--teacher", STUDENT, "--teacher", OTHER, "--zoo", str(tmp_path / "zoo")]


def test_gain_over_seeds_and_fine_tuning(
    distill: list[str], few: list[str], fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = tmp_path / "zoo"
    gain = ["gain", STUDENT, "--seeds", "2", "--json", str(tmp_path / GAIN), "--zoo", str(zoo)]
    gain += ["--runs", str(tmp_path), "--data-dir", str(fashion)]
    assert main([*distill, "--seed", "0", "--seed", "1", *few]) == 0
    assert main(gain) == 0
    assert "the teacher gains " in capsys.readouterr().out
    _, judged = read_judgements(tmp_path / "zoo.md")
    assert judged is not None
    assert (judged.student, judged.seeds, judged.n) == (STUDENT, 2, 10_000)
    assert judged.teachers == (STUDENT, OTHER)
    assert 0 < judged.teacher < 1
    assert judged.further is None

    assert main([*distill, "--trained", "--only", "without", *few]) == 0
    assert main([*distill, "--trained", *few]) == 0
    assert main(gain) == 0
    assert f"{STUDENT}-alone-on: " in capsys.readouterr().out
    _, judged = read_judgements(tmp_path / "zoo.md")
    assert judged is not None
    assert judged.further is not None
    assert judged.further.epochs == 1

    shutil.rmtree(run_folder(tmp_path, f"{STUDENT}-alone", 1))
    longer = [
        "2" if previous == "--epochs" else argument
        for previous, argument in zip(["", *few], few, strict=False)
    ]
    assert main([*distill, "--seed", "1", "--only", "without", *longer]) == 0
    capsys.readouterr()
    assert main(gain) == 1
    assert "belongs to another training: recipe.epochs is 2, expected 1" in capsys.readouterr().err
    assert main([*gain, "--seeds", "1"]) == 1
    assert "two seeds or more" in capsys.readouterr().err


def test_zoo_with_a_changed_teacher(
    distill: list[str], few: list[str], fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = tmp_path / "zoo"
    assert main([*distill, "--seed", "0", "--seed", "1", *few]) == 0
    changed = read_card(zoo / OTHER)
    write_card(zoo / STUDENT, read_card(zoo / STUDENT).model_copy(update={"file": changed.file}))
    gain = ["gain", STUDENT, "--seeds", "2", "--zoo", str(zoo), "--runs", str(tmp_path)]
    capsys.readouterr()
    assert main([*gain, "--data-dir", str(fashion)]) == 1
    assert f"{zoo}: models changed since they were teachers: {STUDENT} " in capsys.readouterr().err
