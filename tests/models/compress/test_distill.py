"""Distillation: cached teacher answers, and the loss of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.compress.compression import Distillation, FineTuning, read_compression  # noqa: E402
from models.compress.distill import TeacherCache, distillation_loss  # noqa: E402
from models.train.job import Job  # noqa: E402
from models.train.loop import train  # noqa: E402
from tests.models.train.test_loop import CLASSES, fresh, same, tiny_job  # noqa: E402

pytestmark = pytest.mark.torch

SETTINGS = Distillation(passes=2, pass_seed=1, temperature=2, weight=0.8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class CountingTeacher(torch.nn.Module):
    """A teacher that counts the images that it classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.network = fresh().eval()
        self.images = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.images += len(x)
        return self.network(x)


def cache_of(job: Job, folder: Path, *teachers: Any, identity: Any = "a") -> TeacherCache:
    return TeacherCache(folder, teachers, identity, job.train, job.config, SETTINGS)


def test_teacher_answers_are_cached(tmp_path: Path) -> None:
    job, teacher = tiny_job(tmp_path), CountingTeacher()
    cache = cache_of(job, tmp_path / "teacher", teacher)
    first = [cache.log_probabilities(number) for number in range(2)]
    assert teacher.images == 2 * len(job.train)
    assert not torch.equal(first[0], first[1])
    again = cache_of(job, tmp_path / "teacher", teacher).log_probabilities(0)
    assert torch.equal(again, first[0])
    assert teacher.images == 2 * len(job.train)
    assert first[0].exp().sum(1).numpy() == pytest.approx(np.ones(len(job.train)), abs=2e-3)


def test_cache_of_another_teacher(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    cache_of(job, tmp_path / "teacher", CountingTeacher())
    with pytest.raises(ValueError, match="answers of another teacher"):
        cache_of(job, tmp_path / "teacher", CountingTeacher(), identity="b")


def test_several_teachers_are_averaged(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    confident, unsure = CountingTeacher(), CountingTeacher()
    confident.network.classifier.bias.data[1] += 8
    apart = [
        cache_of(job, tmp_path / str(i), t).log_probabilities(0).exp()
        for i, t in enumerate((confident, unsure))
    ]
    both = cache_of(job, tmp_path / "both", confident, unsure).log_probabilities(0).exp()
    assert torch.allclose(both, (apart[0] + apart[1]) / 2, atol=2e-3)


def test_distillation_loss_is_scaled_divergence(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    cache = cache_of(job, tmp_path / "teacher", CountingTeacher())
    objective = distillation_loss(cache, job.config, SETTINGS.model_copy(update={"weight": 1.0}))
    indices = torch.arange(20)
    teacher = cache.log_probabilities(1)[indices]
    assert objective(teacher, job.train.classes[indices], indices, 3).abs().max() < 1e-5
    other = teacher + torch.randn_like(teacher)
    softened = [(x / 2).softmax(1) for x in (teacher, other)]
    expected = 4 * (softened[0] * (softened[0] / softened[1]).log()).sum(1)
    loss = objective(other, job.train.classes[indices], indices, 1)
    assert torch.allclose(loss, expected, atol=1e-4)


def test_distillation_changes_the_weights(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    cache = cache_of(job, tmp_path / "teacher", CountingTeacher())
    job = replace(job, passes=cache.passes, objective=distillation_loss(cache, job.config, SETTINGS))
    distilled = train(fresh(), replace(job, folder=tmp_path / "with"), bar=False).state
    alone = train(fresh(), replace(job, folder=tmp_path / "without", objective=None), bar=False).state
    assert not same(distilled, alone)
    assert distilled["classifier.weight"].shape[0] == CLASSES


def test_committed_settings_and_fine_tuning(tmp_path: Path) -> None:
    settings = read_compression()
    assert settings.search.candidates >= 60
    config = tiny_job(tmp_path).config
    tuned = FineTuning(epochs=2, learning_rate=1e-3).of(config)
    assert (tuned.epochs, tuned.optimizer.learning_rate, tuned.optimizer.warm_up_epochs) == (2, 1e-3, 0)
    assert tuned.augmentation == config.augmentation
