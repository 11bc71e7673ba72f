"""The training recipe, which is read from `models/train/training.toml` and validated."""

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
    """How many training images are held out for validation.

    This number is `validation`, which may be 0. `split_seed` determines which images they are.
    """

    validation: Count
    split_seed: Count


class Optimizer(Frozen):
    """Settings of the optimizer AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101).

    `weight_decay` does not apply to biases and batch norms.
    """

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warm_up_epochs: float = Field(ge=0)


class Augmentation(Frozen):
    """Settings of the random augmentation.

    `mirror` is the probability that an image is mirrored, and `erase` the probability that a rectangle of it
    is erased. `shift` is the largest shift in pixels. `erase_smallest` and `erase_largest` are the smallest
    and the largest area of the rectangle, as a share of the image.
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
    """Read a recipe from a TOML file. Raises ValueError, which names the file, the key and the problem."""
    try:
        return TrainConfig.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']})" for e in error.errors()
        )
        raise ValueError(f"{path}: {'; '.join(problems)}") from None
