"""How the student is compressed: what `compression.toml` sets, validated."""

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
    """Training on from weights that are good already: fewer epochs, smaller steps, no warm-up."""

    epochs: int = Field(gt=0)
    learning_rate: float = Field(gt=0)

    def of(self, config: TrainConfig, epochs: int | None = None) -> TrainConfig:
        """The recipe with these, or with other `epochs`."""
        optimizer = config.optimizer.model_copy(
            update={"learning_rate": self.learning_rate, "warm_up_epochs": 0.0}
        )
        return config.model_copy(update={"epochs": epochs or self.epochs, "optimizer": optimizer})


class Pruning(FineTuning):
    """`shares` of the multiply-accumulates to do without."""

    shares: tuple[Share, ...]


class Distillation(Frozen):
    """`passes` over the images, each with its random changes, that the teacher is asked about; `temperature`
    softens its answers, which have `weight` in the loss beside the true classes."""

    passes: int = Field(gt=0)
    pass_seed: int = Field(ge=0)
    temperature: float = Field(gt=0)
    weight: float = Field(gt=0, le=1)


class Search(Frozen):
    """`candidates`, each trained for `epochs` on `images`, to judge it, and its latency measured.

    The winner is the most accurate that takes no longer than the network `no_slower_than`.
    """

    candidates: int = Field(gt=0)
    epochs: int = Field(gt=0)
    images: int = Field(gt=0)
    no_slower_than: str


class Compression(Frozen):
    """All of it."""

    pruning: Pruning
    distillation: Distillation
    distillation_of_trained: FineTuning
    quantization_aware: FineTuning
    search: Search


def read_compression(path: Path = DEFAULTS) -> Compression:
    """The settings in a TOML file. Raises ValueError (pydantic's) that names what is wrong."""
    return Compression.model_validate(tomllib.loads(read_text(path)))
