"""Knowledge distillation: train a student on a teacher's probabilities, computed once and cached."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.compress.compression import Distillation
from models.data.fashion_mnist import FASHION_MNIST, SPEC
from models.onnx_tools.session import open_session
from models.train import augment
from models.train.job import Objective, Passes, Prepared
from models.train.recipe import TrainConfig
from models.zoo.card import Card
from models.zoo.files import write_whole

Teacher = Callable[[Tensor], Tensor]
"""Function that takes images and returns the teacher's logits.

The images are float32 (N, 1, 28, 28) on any device; the logits are float32 (N, classes) on the CPU.
"""


def zoo_teacher(zoo: Path, card: Card, threads: int) -> Teacher:
    """Return a model of a zoo as a teacher, run by ONNX Runtime.

    Raises ValueError if its label set or input differs from the student's.
    """
    if (card.labels, card.input) != (FASHION_MNIST.labels, SPEC):
        raise ValueError(
            f"teacher {card.name}: label set {card.labels} (allowed: {FASHION_MNIST.labels}, 28 x 28 grey)"
        )
    session = open_session(zoo / card.name / card.file.name, threads)

    def teacher(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"image": inputs.cpu().numpy()})[0])

    return teacher


class TeacherCache:
    """Cached probabilities of a teacher for the training images in a fixed number of augmented passes.

    The teacher's probabilities are the mean of those of `teachers`. `identity` is a description that tells
    this teacher from others. `folder` has one file for each pass, written atomically, so a killed run loses
    the results of at most one pass.
    Raises ValueError if `folder` has the probabilities of another teacher.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Sequence[Teacher],
        identity: Any,
        images: Prepared,
        config: TrainConfig,
        settings: Distillation,
    ) -> None:
        self.passes = Passes(settings.passes, settings.pass_seed)
        self._folder = folder
        self._teachers = teachers
        self._images = images
        self._config = config
        description = {
            "teacher": identity,
            "images": len(images),
            "pass_seed": settings.pass_seed,
            "augmentation": config.augmentation.model_dump(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "teacher.json"
        text = json.dumps(description, sort_keys=True)
        if path.exists() and path.read_text() != text:
            raise ValueError(f"{folder}: answers of another teacher; remove it, or give another --runs")
        write_whole(path, text.encode())

    def log_probabilities(self, number: int) -> Tensor:
        """Return the log-probabilities of pass `number`, float32 (images, classes) on the CPU.

        If they are not cached yet, they are computed and cached. Raises ValueError if the cached file has
        another number of images.
        """
        path = self._folder / f"pass-{number}.npy"
        if not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, self._compute(number).numpy().astype(np.float16))
            write_whole(path, buffer.getvalue())
        answers = np.load(path, allow_pickle=False)
        if len(answers) != len(self._images):
            raise ValueError(f"{path}: answers for {len(answers)} images (allowed: {len(self._images)})")
        return torch.from_numpy(answers.astype(np.float32))

    @torch.no_grad()
    def _compute(self, number: int) -> Tensor:
        inputs, count = self._images.inputs, len(self._images)
        device, size = inputs.device, inputs.shape[-1]
        drawn = augment.draw(count, size, self._config.augmentation, self.passes.of(0, number))
        drawn = drawn.to(device)
        background = float(inputs.min())
        answers = []
        for indices in torch.arange(count, device=device).split(500):
            batch = augment.apply(inputs[indices], drawn, indices, background)
            probabilities = [teacher(batch).softmax(1) for teacher in self._teachers]
            answers.append(torch.stack(probabilities).mean(0).clamp_min(1e-7).log())
        return torch.cat(answers)


def distillation_loss(cache: TeacherCache, config: TrainConfig, settings: Distillation) -> Objective:
    """Return the loss function of a student.

    The loss is a weighted sum of the student's divergence from the teacher and of the cross-entropy with the
    true classes. The temperature softens both distributions of the divergence. Its square scales the
    divergence, so that the gradients stay comparable: Hinton, Vinyals and Dean, "Distilling the Knowledge in
    a Neural Network", https://arxiv.org/abs/1503.02531.
    """
    current: dict[int, Tensor] = {}
    temperature = settings.temperature

    def objective(logits: Tensor, classes: Tensor, indices: Tensor, epoch: int) -> Tensor:
        number = epoch % settings.passes
        if number not in current:
            current.clear()
            current[number] = cache.log_probabilities(number).to(logits.device)
        teacher = (current[number][indices] / temperature).log_softmax(1)
        student = (logits / temperature).log_softmax(1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        truth = F.cross_entropy(logits, classes, reduction="none", label_smoothing=config.label_smoothing)
        return settings.weight * temperature**2 * divergence + (1 - settings.weight) * truth

    return objective
