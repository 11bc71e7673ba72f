"""Training: learning, dependence on the seed, checkpoints and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.architectures.designed import Design, DesignedNetwork, Stage  # noqa: E402
from models.data.fashion_mnist import load_train, split  # noqa: E402
from models.train import checkpoint  # noqa: E402
from models.train.checkpoint import CheckpointError  # noqa: E402
from models.train.job import Job, Passes, Prepared  # noqa: E402
from models.train.loop import CHECKPOINT, LOG, train  # noqa: E402
from models.train.predict import accuracy  # noqa: E402
from models.train.recipe import TrainConfig, read_config  # noqa: E402
from tests.helpers.tiny_fashion import CLASSES, make_tiny_fashion  # noqa: E402

pytestmark = pytest.mark.torch

TINY = Design(stem=8, stages=(Stage(block="depthwise-separable", channels=16, repeats=2),))
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_config(epochs: int = 3) -> TrainConfig:
    config = read_config()
    optimizer = config.optimizer.model_copy(update={"warm_up_epochs": 0.5, "learning_rate": 0.02})
    return config.model_copy(
        update={"epochs": epochs, "batch_size": 32, "ema_decay": 0.9, "optimizer": optimizer}
    )


def tiny_job(folder: Path, epochs: int = 3) -> Job:
    dataset = make_tiny_fashion(folder / "data")
    train_images, validation = split(load_train(folder / "data", dataset), 40, seed=0)
    return Job(
        folder=folder / "run",
        identity={"design": TINY.model_dump()},
        train=Prepared.of(train_images),
        validation=Prepared.of(validation),
        config=tiny_config(epochs),
    )


def fresh() -> DesignedNetwork:
    torch.manual_seed(5)
    return DesignedNetwork(TINY, CLASSES)


def log_of(job: Job) -> list[dict[str, object]]:
    return [json.loads(line) for line in (job.folder / LOG).read_text().splitlines()]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_training_learns_and_logs_epochs(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=8)
    network = fresh()
    outcome = train(network, job, bar=False)
    assert outcome.accuracy is not None
    assert outcome.accuracy >= 0.9
    assert accuracy(network, job.validation) == outcome.accuracy
    assert not network.training
    log = log_of(job)
    assert [entry["epoch"] for entry in log] == list(range(1, 9))
    assert log[-1]["validation_accuracy"] == outcome.accuracy
    assert log[-1]["loss"] < log[0]["loss"]  # type: ignore[operator]


def test_weights_depend_on_the_seed(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=1)
    first = train(fresh(), job, bar=False).state
    again = train(fresh(), replace(job, folder=tmp_path / "again"), bar=False).state
    other = train(fresh(), replace(job, folder=tmp_path / "other", seed=1), bar=False).state
    assert same(first, again)
    assert not same(first, other)


KILLED = """
import sys
from pathlib import Path
import models.train.loop
from tests.models.train.test_loop import fresh, tiny_job
import torch
torch.set_num_threads(1)
steps = 0
def update(average, network, decay, original=models.train.loop._update_average):
    global steps
    steps += 1
    original(average, network, decay)
    if steps == int(sys.argv[2]):
        print("reached", flush=True)
        sys.stdin.read()
models.train.loop._update_average = update
models.train.loop.train(fresh(), tiny_job(Path(sys.argv[1])), bar=False)
"""


@pytest.mark.parametrize("steps", [3, 9, 16])
def test_killed_training_resumes_identically(tmp_path: Path, steps: int) -> None:
    job = tiny_job(tmp_path / "killed")
    whole = train(fresh(), tiny_job(tmp_path / "whole"), bar=False)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(steps)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        process.send_signal(signal.SIGKILL)
    epochs_done = (steps - 1) // 7
    assert (job.folder / CHECKPOINT).exists() == (epochs_done > 0)
    if epochs_done:
        assert len(log_of(job)) == epochs_done
    resumed = train(fresh(), job, bar=False)
    assert same(resumed.state, whole.state)
    losses = [[entry["loss"] for entry in log_of(tiny_job(tmp_path / name))] for name in ("killed", "whole")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    first = train(fresh(), job, bar=False)
    written = (job.folder / CHECKPOINT).stat().st_mtime_ns
    again = train(fresh(), job, bar=False)
    assert same(first.state, again.state)
    assert (job.folder / CHECKPOINT).stat().st_mtime_ns == written


def test_checkpoint_of_another_training(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=1)
    train(fresh(), job, bar=False)
    before = (job.folder / CHECKPOINT).read_bytes()
    wider = TINY.model_copy(update={"stem": 16})
    other = replace(job, identity={"design": wider.model_dump()}, seed=3)
    with pytest.raises(
        CheckpointError, match=r"another training: design.stem is 8, expected 16; seed is 0, expected 3"
    ):
        train(DesignedNetwork(wider, CLASSES), other, bar=False)
    with pytest.raises(CheckpointError, match=r"recipe.epochs is 1, expected 3"):
        train(fresh(), replace(job, config=tiny_config(3)), bar=False)
    assert (job.folder / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_checkpoint(tmp_path: Path, content: bytes | None) -> None:
    job = tiny_job(tmp_path, epochs=1)
    train(fresh(), job, bar=False)
    path = job.folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    damaged = path.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"checkpoint.pt: damaged checkpoint .*remove it to start again"
    ):
        train(fresh(), job, bar=False)
    assert path.read_bytes() == damaged


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / CHECKPOINT
    checkpoint.save(path, {"a": 1}, {"history": "[]"})

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"a": 2}, {"history": "[]"})
    monkeypatch.undo()
    assert checkpoint.load(path)[0] == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def test_concurrent_training_in_one_folder(tmp_path: Path) -> None:
    import filelock

    job = tiny_job(tmp_path)
    job.folder.mkdir(parents=True)
    with (
        filelock.FileLock(job.folder / "lock"),
        pytest.raises(RuntimeError, match="another process is training"),
    ):
        train(fresh(), job, bar=False)


def test_nan_loss_stops_training(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    broken = replace(job, objective=lambda logits, _c, _i, _e: logits.sum(1) * float("nan"))
    with pytest.raises(RuntimeError, match="run: loss of epoch 1 is nan"):
        train(fresh(), broken, bar=False)
    assert not (job.folder / CHECKPOINT).exists()


def test_passes_repeat_for_every_seed() -> None:
    fixed = Passes(count=2, seed=7)
    assert fixed.of(0, 0) == fixed.of(5, 2) != fixed.of(0, 1)
    assert Passes().of(0, 0) != Passes().of(0, 2)
    assert Passes().of(0, 0) != Passes().of(5, 0)
