"""From a trained network to a pruned, a rounded, a distilled one and a search, each through its command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.cli import main  # noqa: E402
from models.compress.int8_check import Int8Check  # noqa: E402
from models.compress.search import found  # noqa: E402
from models.cost.profiling import profile  # noqa: E402
from models.data.fashion_mnist import load_test, load_train  # noqa: E402
from models.publish.publish import Origin, first, publish  # noqa: E402
from models.train.family import run_folder, trained, weights_digest  # noqa: E402
from models.train.recipe import RECIPE  # noqa: E402

pytestmark = pytest.mark.torch

NAME = "fashion-standard-equal-macs"


def zoo_of(zoo: Path, *names: str, runs: Path, fashion: Path) -> Path:
    """A zoo of those trainings, judged on a few images only."""
    learned, test = first(load_train(fashion), 64), first(load_test(fashion), 20)
    for name in names:
        publish(name, *trained(run_folder(runs, name, 0)), Origin("a test"), zoo, learned, test)
    return zoo


def test_each_technique_leaves_a_training_that_is_found_again(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--limit", "256", "--epochs", "1", "--threads", "1", "--data-dir", str(fashion)]
    few += ["--runs", str(tmp_path)]
    assert main(["train", NAME, *few]) == 0
    parent, _ = trained(run_folder(tmp_path, NAME, 0))

    assert main(["prune", NAME, "--share", "0.5", *few]) == 0
    smaller, identity = trained(run_folder(tmp_path, f"{NAME}-pruned-50", 0))
    assert identity["parent"] == f"{NAME}, seed 0, 1 epochs, weights {weights_digest(parent)}"
    assert profile(smaller, 28, 1).macs <= 0.5 * profile(parent, 28, 1).macs

    assert main(["train-int8", NAME, *few]) == 0
    rounded, identity = trained(run_folder(tmp_path, f"{NAME}-rounded", 0))
    assert identity["folded"]
    assert identity["made_with"] == f"cpu, torch {torch.__version__}"
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in rounded.modules())
    assert main(["check-int8", NAME, *few]) == 0
    assert "validation images, " in capsys.readouterr().out
    decided = Int8Check.kept(run_folder(tmp_path, NAME, 0))
    assert decided is not None
    assert decided.n == 256

    zoo = zoo_of(tmp_path / "zoo", NAME, f"{NAME}-pruned-50", runs=tmp_path, fashion=fashion)
    teachers = ["--teacher", NAME, "--teacher", f"{NAME}-pruned-50", "--zoo", str(zoo)]
    assert main(["distill", NAME, *teachers, "--seed", "0", "--seed", "1", *few]) == 0
    taught, _ = trained(run_folder(tmp_path, f"{NAME}-distilled", 0))
    alone, _ = trained(run_folder(tmp_path, f"{NAME}-alone", 0))
    assert not torch.equal(taught.classifier.weight, alone.classifier.weight)
    assert main(["distill", NAME, *teachers, "--trained", *few]) == 0
    _, identity = trained(run_folder(tmp_path, f"{NAME}-distilled-on", 0))
    assert identity["parent"] == f"{NAME}, seed 0, 1 epochs, weights {weights_digest(parent)}"
    assert identity["recipe"]["optimizer"]["warm_up_epochs"] == 0

    assert main(["distill", NAME, "--teacher", "nobody", "--zoo", str(zoo), *few]) == 1
    assert f"no model named nobody in {zoo}; known: {NAME}, {NAME}-pruned-50" in capsys.readouterr().err
    assert main(["distill", NAME, "--teacher", "efficientnet-lite0", *few]) == 1
    assert "efficientnet-lite0 is for imagenet-1k; a teacher must be for fashion-mnist" in (
        capsys.readouterr().err
    )

    pictures = ["--plot", str(tmp_path / "front.svg"), "--json", str(tmp_path / "all.json")]
    assert main(["search", "--candidates", "2", *pictures, *few]) == 0
    assert "the winner, the best that is no slower than " in capsys.readouterr().out
    assert len(found(tmp_path / "search")) == 2
    assert (tmp_path / "front.svg").exists()
    assert (tmp_path / "all.json").exists()
    capsys.readouterr()

    assert main(["prune", "fashion-shuffle", *few]) == 1
    assert "nothing is trained in" in capsys.readouterr().err


def test_what_was_made_from_a_training_is_not_what_another_gives(
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
    assert "is of another training: parent is " in capsys.readouterr().err
