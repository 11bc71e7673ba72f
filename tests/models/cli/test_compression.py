"""The commands prune, train-int8, check-int8, distill and search on a trained network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.cli import main  # noqa: E402
from models.compress.int8_check import Int8Check  # noqa: E402
from models.compress.search import read_candidates  # noqa: E402
from models.cost.profiling import profile  # noqa: E402
from models.data.fashion_mnist import load_test, load_train  # noqa: E402
from models.publish.publish import Origin, evenly_spaced, publish  # noqa: E402
from models.train.family import load_trained, run_folder, weights_digest  # noqa: E402
from models.train.recipe import RECIPE  # noqa: E402

pytestmark = pytest.mark.torch

NAME = "fashion-standard-equal-macs"


def zoo_of(zoo: Path, *names: str, runs: Path, fashion: Path) -> Path:
    """Publish the trainings to `zoo`, evaluated on a few images only."""
    train, test = evenly_spaced(load_train(fashion), 64), evenly_spaced(load_test(fashion), 20)
    for name in names:
        publish(name, *load_trained(run_folder(runs, name, 0)), Origin("a test"), zoo, train, test)
    return zoo


def test_techniques_train_and_reload(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--limit", "256", "--epochs", "1", "--threads", "1", "--data-dir", str(fashion)]
    few += ["--runs", str(tmp_path)]
    assert main(["train", NAME, *few]) == 0
    parent, _ = load_trained(run_folder(tmp_path, NAME, 0))

    assert main(["prune", NAME, "--share", "0.5", *few]) == 0
    smaller, identity = load_trained(run_folder(tmp_path, f"{NAME}-pruned-50", 0))
    assert identity["parent"] == f"{NAME}, seed 0, 1 epochs, weights {weights_digest(parent)}"
    assert profile(smaller, 28, 1).macs <= 0.5 * profile(parent, 28, 1).macs

    assert main(["train-int8", NAME, *few]) == 0
    fine_tuned, identity = load_trained(run_folder(tmp_path, f"{NAME}-rounded", 0))
    assert identity["folded"]
    assert identity["made_with"] == f"cpu, torch {torch.__version__}"
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fine_tuned.modules())
    assert main(["check-int8", NAME, *few]) == 0
    assert "validation images, " in capsys.readouterr().out
    check = Int8Check.load(run_folder(tmp_path, NAME, 0))
    assert check is not None
    assert check.n == 256

    zoo = zoo_of(tmp_path / "zoo", NAME, f"{NAME}-pruned-50", runs=tmp_path, fashion=fashion)
    teachers = ["--teacher", NAME, "--teacher", f"{NAME}-pruned-50", "--zoo", str(zoo)]
    assert main(["distill", NAME, *teachers, "--seed", "0", "--seed", "1", *few]) == 0
    distilled, _ = load_trained(run_folder(tmp_path, f"{NAME}-distilled", 0))
    alone, _ = load_trained(run_folder(tmp_path, f"{NAME}-alone", 0))
    assert not torch.equal(distilled.classifier.weight, alone.classifier.weight)
    assert main(["distill", NAME, *teachers, "--trained", *few]) == 0
    _, identity = load_trained(run_folder(tmp_path, f"{NAME}-distilled-on", 0))
    assert identity["parent"] == f"{NAME}, seed 0, 1 epochs, weights {weights_digest(parent)}"
    assert identity["recipe"]["optimizer"]["warm_up_epochs"] == 0

    assert main(["distill", NAME, "--teacher", "nobody", "--zoo", str(zoo), *few]) == 1
    assert f"{zoo}: no model nobody (allowed: {NAME}, {NAME}-pruned-50)" in capsys.readouterr().err
    assert main(["distill", NAME, "--teacher", "efficientnet-lite0", *few]) == 1
    assert "teacher efficientnet-lite0: label set imagenet-1k (allowed: fashion-mnist, 28 x 28 grey)" in (
        capsys.readouterr().err
    )

    pictures = ["--plot", str(tmp_path / "front.svg"), "--json", str(tmp_path / "all.json")]
    assert main(["search", "--candidates", "2", *pictures, *few]) == 0
    assert "winner, the most accurate candidate no slower than " in capsys.readouterr().out
    assert len(read_candidates(tmp_path / "search")) == 2
    assert (tmp_path / "front.svg").exists()
    assert (tmp_path / "all.json").exists()
    capsys.readouterr()

    assert main(["prune", "fashion-shuffle", *few]) == 1
    assert "no trained network" in capsys.readouterr().err


def test_pruning_of_a_retrained_parent(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--limit", "128", "--epochs", "1", "--threads", "1", "--data-dir", str(fashion)]
    few += ["--runs", str(tmp_path)]
    prune = ["prune", NAME, "--share", "0.5", *few]
    assert main(["train", NAME, *few]) == 0
    assert main(prune) == 0
    assert main(prune) == 0
    shutil.rmtree(run_folder(tmp_path, NAME, 0))
    smoother = RECIPE.read_text().replace("label_smoothing = 0.05", "label_smoothing = 0.2")
    (tmp_path / "other.toml").write_text(smoother)
    assert main(["train", NAME, "--recipe", str(tmp_path / "other.toml"), *few]) == 0
    capsys.readouterr()
    assert main(prune) == 1
    assert "belongs to another training: parent is " in capsys.readouterr().err
