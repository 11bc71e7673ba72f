"""What a training is: the images it learns from, the recipe, and what its checkpoint must belong to."""

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
"""Logits (B, classes), classes (B,), indices of the images (B,) and the epoch to the loss of each (B,)."""


@dataclass(frozen=True)
class Prepared:
    """Images as the network's input, float32 (N, 1, 28, 28), and their classes, int64 (N,)."""

    inputs: Tensor
    classes: Tensor

    @classmethod
    def of(cls, images: Images) -> Prepared:
        """What a network gets to see of `images`."""
        return cls(torch.from_numpy(tensors(images.pixels)), torch.from_numpy(images.classes))

    def to(self, device: torch.device) -> Prepared:
        """The same on a device, where the training then is."""
        return Prepared(self.inputs.to(device), self.classes.to(device))

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Passes:
    """Which random changes the images get in each epoch.

    With `count` 0 every epoch has new ones, by the training's own seed. Otherwise the same `count` passes
    come round again, by `seed`, so that what a teacher says of them can be kept.
    """

    count: int = 0
    seed: int = 0

    def of(self, training_seed: int, epoch: int) -> tuple[int, int, int]:
        """The seed of the changes in `epoch`."""
        return (1, self.seed, epoch % self.count) if self.count else (0, training_seed, epoch)


@dataclass(frozen=True)
class Job:
    """One training: where it is kept, what it is, what it learns from.

    `identity` says in plain values what a checkpoint must belong to: the network, the data, the objective.
    Recipe, seed and passes are added to it. `validation` may be empty.
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
        """The same by another recipe, with more that a checkpoint must belong to."""
        return replace(self, config=config, identity={**self.identity, **identity})

    def full_identity(self) -> dict[str, Any]:
        """Everything that decides what comes out."""
        return {
            **self.identity,
            "seed": self.seed,
            "passes": [self.passes.count, self.passes.seed],
            "images": [len(self.train), len(self.validation)],
            "recipe": self.config.model_dump(),
        }
