"""Training recipe: hyperparameters read from `models/train/training.toml` and validated."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from models.zoo.files import read_text
from models.zoo.frozen import Frozen

RECIPE = Path(__file__).parent / "training.toml"

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]


class Data(Frozen):
    """`validation`: number of training images held out for validation by `split_seed`; 0 for none."""

    validation: Count
    split_seed: Count


class Optimizer(Frozen):
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101); no decay of biases and batch norm."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warm_up_epochs: float = Field(ge=0)


class Augmentation(Frozen):
    """Random augmentation.

    `mirror`, `erase`: probabilities of mirroring and of erasing a rectangle. `shift`: largest shift in
    pixels. `erase_smallest`, `erase_largest`: area of the rectangle as a share of the image.
    """

    mirror: Fraction
    shift: Count
    erase: Fraction
    erase_smallest: Fraction
    erase_largest: Fraction


class TrainConfig(Frozen):
    """Everything that determines a training besides the network and the seed."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    label_smoothing: Fraction
    ema_decay: Fraction = Field(description="Decay of the weights' moving average, which training returns")
    data: Data
    optimizer: Optimizer
    augmentation: Augmentation


def read_config(path: Path = RECIPE) -> TrainConfig:
    """Read a recipe from a TOML file. Raises ValueError that names the file, the key and the problem."""
    try:
        return TrainConfig.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']})" for e in error.errors()
        )
        raise ValueError(f"{path}: {'; '.join(problems)}") from None
