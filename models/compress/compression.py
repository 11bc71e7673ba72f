"""Settings of the compression techniques, read from `compression.toml` and validated."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from models.train.recipe import TrainConfig
from models.zoo.files import read_text
from models.zoo.frozen import Frozen

DEFAULTS = Path(__file__).parent / "compression.toml"

Share = Annotated[float, Field(gt=0, lt=1)]


class FineTuning(Frozen):
    """Settings of fine-tuning a trained network, which replace those of the training recipe."""

    epochs: int = Field(gt=0)
    learning_rate: float = Field(gt=0)

    def of(self, config: TrainConfig, epochs: int | None = None) -> TrainConfig:
        """Return the recipe `config` with the learning rate of this fine-tuning and without warm-up.

        The number of epochs is `epochs`. If this is None, it is that of the fine-tuning.
        """
        optimizer = config.optimizer.model_copy(
            update={"learning_rate": self.learning_rate, "warm_up_epochs": 0.0}
        )
        return config.model_copy(update={"epochs": epochs or self.epochs, "optimizer": optimizer})


class Pruning(FineTuning):
    """Settings of pruning and of the fine-tuning after it.

    Each of `shares` is a share of the multiply-accumulates to remove, and gives a network of its own.
    """

    shares: tuple[Share, ...]


class Distillation(Frozen):
    """Settings of distillation.

    `passes` is the number of differently augmented passes over the training images for which the teacher's
    probabilities are cached. `pass_seed` is the seed of the augmentation in these passes. `temperature`
    softens the probabilities of teacher and student. `weight` is the share of the loss that compares the
    student with the teacher. The rest of the loss compares the student with the true classes.
    """

    passes: int = Field(gt=0)
    pass_seed: int = Field(ge=0)
    temperature: float = Field(gt=0)
    weight: float = Field(gt=0, le=1)


class Search(Frozen):
    """Settings of the architecture search.

    The search judges `candidates` designs. It trains each of them for `epochs` epochs on `images` training
    images.

    The winner is the most accurate candidate whose p50 is at most that of the network `no_slower_than`.
    """

    candidates: int = Field(gt=0)
    epochs: int = Field(gt=0)
    images: int = Field(gt=0)
    no_slower_than: str


class Compression(Frozen):
    """All settings of `compression.toml`."""

    pruning: Pruning
    distillation: Distillation
    distillation_of_trained: FineTuning
    quantization_aware: FineTuning
    search: Search


def read_compression(path: Path = DEFAULTS) -> Compression:
    """Read the settings from a TOML file. Raises ValueError, whose message names the key and the problem."""
    return Compression.model_validate(tomllib.loads(read_text(path)))
