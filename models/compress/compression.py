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
    """Fine-tuning of a trained network: fewer epochs, a lower learning rate, no warm-up."""

    epochs: int = Field(gt=0)
    learning_rate: float = Field(gt=0)

    def of(self, config: TrainConfig, epochs: int | None = None) -> TrainConfig:
        """Return `config` with this learning rate and number of epochs, without warm-up.

        `epochs` overrides the number of epochs.
        """
        optimizer = config.optimizer.model_copy(
            update={"learning_rate": self.learning_rate, "warm_up_epochs": 0.0}
        )
        return config.model_copy(update={"epochs": epochs or self.epochs, "optimizer": optimizer})


class Pruning(FineTuning):
    """Pruning, then fine-tuning. `shares`: shares of the multiply-accumulates to remove."""

    shares: tuple[Share, ...]


class Distillation(Frozen):
    """Distillation.

    `passes`: number of augmented passes over the images; the teacher's probabilities for all of them are
    cached. `pass_seed`: seed of the augmentation in these passes.
    `temperature`: softens the probabilities. `weight`: the teacher's share of the loss; the true classes have
    the remaining share.
    """

    passes: int = Field(gt=0)
    pass_seed: int = Field(ge=0)
    temperature: float = Field(gt=0)
    weight: float = Field(gt=0, le=1)


class Search(Frozen):
    """Architecture search over `candidates`, each trained for `epochs` on `images` training images.

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
    """Read the settings from a TOML file. Raises ValueError (pydantic's) that names key and problem."""
    return Compression.model_validate(tomllib.loads(read_text(path)))
