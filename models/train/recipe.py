"""How networks are trained: the one recipe of `models/train/training.toml`, validated."""

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
    """`validation`: images kept back to choose on, by `split_seed`; 0 learns from all of them."""

    validation: Count
    split_seed: Count


class Optimizer(Frozen):
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101); only weights of layers decay."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warm_up_epochs: float = Field(ge=0)


class Augmentation(Frozen):
    """Each image is mirrored with a chance of `mirror`, moved by up to `shift` pixels each way, and with a
    chance of `erase` loses a rectangle of `erase_smallest` to `erase_largest` of its area."""

    mirror: Fraction
    shift: Count
    erase: Fraction
    erase_smallest: Fraction
    erase_largest: Fraction


class TrainConfig(Frozen):
    """One recipe: everything that a network's training depends on besides the network and the seed."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    label_smoothing: Fraction
    ema_decay: Fraction = Field(description="Of the moving average of the weights, which is what is kept")
    data: Data
    optimizer: Optimizer
    augmentation: Augmentation


def read_config(path: Path = RECIPE) -> TrainConfig:
    """The recipe in a TOML file. Raises ValueError that names the file, the key and what is wrong with it."""
    try:
        return TrainConfig.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']})" for e in error.errors()
        )
        raise ValueError(f"{path}: {'; '.join(problems)}") from None
