"""Description of a training: its images, its recipe and the identity of its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.data.fashion_mnist import Images, tensors
from models.train.recipe import TrainConfig

Objective = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Function of logits (B, classes), classes (B,), image indices (B,) and the epoch; returns losses (B,)."""


@dataclass(frozen=True)
class Prepared:
    """Preprocessed images, float32 (N, 1, 28, 28), and their classes, int64 (N,)."""

    inputs: Tensor
    classes: Tensor

    @classmethod
    def of(cls, images: Images) -> Prepared:
        """Preprocess `images` as the service does."""
        return cls(torch.from_numpy(tensors(images.pixels)), torch.from_numpy(images.classes))

    def to(self, device: torch.device) -> Prepared:
        """Return a copy on `device`, where the training then runs."""
        return Prepared(self.inputs.to(device), self.classes.to(device))

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Passes:
    """Seeds of the augmentation of each epoch.

    With `count` 0, the training's own seed gives every epoch a new augmentation. Otherwise epochs cycle
    through `count` passes that `seed` determines, so that a teacher's probabilities for them can be cached.
    """

    count: int = 0
    seed: int = 0

    def of(self, training_seed: int, epoch: int) -> tuple[int, int, int]:
        """Return the seed of the augmentation in `epoch`."""
        return (1, self.seed, epoch % self.count) if self.count else (0, training_seed, epoch)


@dataclass(frozen=True)
class Job:
    """One training: its folder, identity, images, recipe and seed.

    `identity` describes the network, the data and the objective in JSON values; a checkpoint is resumed only
    if its identity is the same. `full_identity` adds recipe, seed and passes. `validation` may be empty.
    `objective` replaces the cross-entropy loss. `after_step` is called with the network after every step.
    """

    folder: Path
    identity: Mapping[str, Any]
    train: Prepared
    validation: Prepared
    config: TrainConfig
    seed: int = 0
    passes: Passes = Passes()
    objective: Objective | None = None
    after_step: Callable[[nn.Module], None] | None = None

    def with_recipe(self, config: TrainConfig, **identity: Any) -> Job:
        """Return a copy with another recipe and an extended identity."""
        return replace(self, config=config, identity={**self.identity, **identity})

    def full_identity(self) -> dict[str, Any]:
        """Return everything that determines the trained weights."""
        return {
            **self.identity,
            "seed": self.seed,
            "passes": [self.passes.count, self.passes.seed],
            "images": [len(self.train), len(self.validation)],
            "recipe": self.config.model_dump(),
        }
