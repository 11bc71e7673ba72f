"""Distillation: a student learns from a teacher's probabilities, which are asked for once and kept."""

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
"""Inputs, float32 (N, 1, 28, 28), wherever they are, to logits, float32 (N, classes), on the processor."""


def published(zoo: Path, card: Card, threads: int) -> Teacher:
    """A model of a zoo as a teacher, run by ONNX Runtime.

    Raises ValueError where it is not for the data that the student learns from.
    """
    if (card.labels, card.input) != (FASHION_MNIST.labels, SPEC):
        raise ValueError(f"{card.name} is for {card.labels}; a teacher must be for {FASHION_MNIST.labels}")
    session = open_session(zoo / card.name / card.file.name, threads)

    def teacher(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"image": inputs.cpu().numpy()})[0])

    return teacher


class TeacherCache:
    """What the teacher says of every training image under each of some fixed random changes.

    The teacher is the mean of the teachers' probabilities. A file for each pass lies in `folder`, written
    whole, so that a killed run goes on with the next pass; `identity` says which teacher it is.
    Raises ValueError where the folder holds another teacher's answers.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Sequence[Teacher],
        identity: Any,
        learn: Prepared,
        config: TrainConfig,
        settings: Distillation,
    ) -> None:
        self.passes = Passes(settings.passes, settings.pass_seed)
        self._folder = folder
        self._teachers = teachers
        self._learn = learn
        self._config = config
        about = {
            "teacher": identity,
            "images": len(learn),
            "pass_seed": settings.pass_seed,
            "augmentation": config.augmentation.model_dump(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "teacher.json"
        text = json.dumps(about, sort_keys=True)
        if path.exists() and path.read_text() != text:
            raise ValueError(f"{folder} holds another teacher's answers; remove it, or give another --runs")
        write_whole(path, text.encode())

    def log_probabilities(self, number: int) -> Tensor:
        """Of pass `number`, float32 (images, classes), on the processor; asked for now where not kept yet."""
        path = self._folder / f"pass-{number}.npy"
        if not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, self._ask(number).numpy().astype(np.float16))
            write_whole(path, buffer.getvalue())
        found = np.load(path, allow_pickle=False)
        if len(found) != len(self._learn):
            raise ValueError(f"{path} has answers for {len(found)} images, needed are {len(self._learn)}")
        return torch.from_numpy(found.astype(np.float32))

    @torch.no_grad()
    def _ask(self, number: int) -> Tensor:
        learn = self._learn
        device, size = learn.inputs.device, learn.inputs.shape[-1]
        drawn = augment.draw(len(learn), size, self._config.augmentation, self.passes.of(0, number))
        drawn = drawn.to(device)
        ground = float(learn.inputs.min())
        answers = []
        for indices in torch.arange(len(learn), device=device).split(500):
            images = augment.apply(learn.inputs[indices], drawn, indices, ground)
            shares = [teacher(images).softmax(1) for teacher in self._teachers]
            answers.append(torch.stack(shares).mean(0).clamp_min(1e-7).log())
        return torch.cat(answers)


def distilling(cache: TeacherCache, config: TrainConfig, settings: Distillation) -> Objective:
    """The loss of a student: its divergence from the teacher, both softened, beside the true classes.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531;
    the square of the temperature keeps the two parts in proportion.
    """
    kept: dict[int, Tensor] = {}
    temperature = settings.temperature

    def objective(logits: Tensor, classes: Tensor, indices: Tensor, epoch: int) -> Tensor:
        number = epoch % settings.passes
        if number not in kept:
            kept.clear()
            kept[number] = cache.log_probabilities(number).to(logits.device)
        teacher = (kept[number][indices] / temperature).log_softmax(1)
        student = (logits / temperature).log_softmax(1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        truth = F.cross_entropy(logits, classes, reduction="none", label_smoothing=config.label_smoothing)
        return settings.weight * temperature**2 * divergence + (1 - settings.weight) * truth

    return objective
