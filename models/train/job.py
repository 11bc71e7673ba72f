"""Description of a training: its images, its recipe, and the identity by which its checkpoint is known."""

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
"""Function that returns the loss of each image of a batch, (B,).

It takes the logits (B, classes), the true classes (B,), the indices of the images (B,) and the number of the
epoch.
"""


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
        """Return a copy on `device`. A training runs on the device of its images."""
        return Prepared(self.inputs.to(device), self.classes.to(device))

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Passes:
    """How the seed of each epoch's augmentation is chosen.

    If `count` is 0, the training's own seed gives every epoch a new augmentation. Otherwise the epochs use,
    in turn, `count` augmentations that `seed` determines, so that a teacher's probabilities for them can be
    cached.
    """

    count: int = 0
    seed: int = 0

    def of(self, training_seed: int, epoch: int) -> tuple[int, int, int]:
        """Return the seed of the augmentation in `epoch`."""
        return (1, self.seed, epoch % self.count) if self.count else (0, training_seed, epoch)


@dataclass(frozen=True)
class Job:
    """Everything that is needed to run one training, except the network.

    `folder` is the folder for the checkpoint. `identity` describes the network and the objective in JSON
    values. `full_identity` adds the recipe, the seed, the passes and the numbers of images. A checkpoint is
    resumed only if its full identity is the same. `train` and `validation` are the images; `validation` may
    be empty. `config` is the recipe. If `objective` is given, it replaces the cross-entropy loss.
    `after_step` is called with the network after every step of the optimizer.
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
        """Return a copy with the recipe `config` and with the entries `identity` added to its identity."""
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
