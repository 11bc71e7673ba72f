"""`card.json`: the frozen, validated description of one model of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NotRequired, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import TypedDict  # pydantic reads the one in typing from Python 3.12 on

from models.zoo import statistics
from models.zoo.files import read_text, write_whole
from models.zoo.frozen import Frozen


def _lower(given: object) -> object:
    """Lower a checksum: PowerShell's Get-FileHash writes upper case."""
    return given.lower() if isinstance(given, str) else given


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), BeforeValidator(_lower)]
Fraction = Annotated[float, Field(ge=0, le=1)]
MAX_COUNT = 2**53 - 1
"""Largest integer in a card, which JSON parsers with double-precision numbers read exactly."""
MAX_SIDE = 16_384
"""Largest side of a network's input and of the resized image, in pixels."""
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Shape = tuple[PositiveCount, ...]
Activation = Literal["none", "softmax", "sigmoid"]
"""Activation that the network itself applies to its output `logits`."""

_OUTPUT_NAMES: tuple[Literal["logits", "embedding", "features"], ...] = ("logits", "embedding", "features")


class _Finite(Frozen):
    model_config = ConfigDict(allow_inf_nan=False)


class InputSpec(_Finite):
    """Preprocessing of an image to the network's input `image`, float32 (N, channels, height, width).

    The shorter side is resized to `resize` pixels, the centre `height` x `width` is cut out, and each
    channel becomes `(value - mean) / std` on pixel values 0 to 255. Channels are RGB, or one grey channel.

    `polarity` describes the training images. `light-on-dark` (grey only) means light objects on a dark
    background: an image with a light background is inverted (255 - value) before normalisation. Its
    background is light if more than half of the pixels in the four corners of the crop, squares of 1/9 of its
    shorter side, exceed 127.5.
    """

    height: Side
    width: Side
    channels: Literal[1, 3] = 3
    resize: Side = Field(description="Pixels of the shorter side before the centre crop")
    crop: Literal["center"] = "center"
    mean: tuple[float, ...] = Field(description="Per channel, in pixel values 0 to 255")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        description="Per channel, in pixel values 0 to 255"
    )
    interpolation: Literal["bilinear", "bicubic"]
    polarity: Literal["as-is", "light-on-dark"] = "as-is"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field in ("mean", "std"):
            if len(getattr(self, field)) != self.channels:
                raise ValueError(
                    f"{field} has {len(getattr(self, field))} values for {self.channels} channels"
                )
        if self.resize < max(self.height, self.width):
            raise ValueError(f"resize {self.resize} is smaller than the crop {self.height}x{self.width}")
        if self.polarity == "light-on-dark" and self.channels != 1:
            raise ValueError("polarity light-on-dark is for one grey channel")
        return self


class Outputs(TypedDict):
    """Shape of each output without the batch dimension, and the activation applied to `logits`.

    Without `activation`, the last operator of the file decides.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    logits: Shape
    embedding: NotRequired[Shape]
    features: NotRequired[Shape]
    activation: NotRequired[Activation]


class File(_Finite):
    """Name, size and checksum of a file in the model's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    bytes: PositiveCount
    sha256: Sha256


class ModelFile(File):
    """Facts of the ONNX file that can be recomputed from it."""

    opset: PositiveCount
    initializer_elements: Count


class Classifier(_Finite):
    """Final linear layer in its own file: `weight` float32 (classes, embedding) and `bias` (classes,)."""

    model: Name = Field(description="The model whose folder holds the file; an int8 variant names its parent")
    file: File


class Interval(_Finite):
    """Confidence interval of a proportion."""

    low: Fraction
    high: Fraction
    confidence: Fraction = 0.95
    method: str = "Wilson"

    @classmethod
    def wilson(cls, successes: int, n: int) -> Self:
        """Return Wilson's 95 % interval of a proportion, to four digits.

        Raises ValueError unless 0 <= successes <= n and n > 0.
        """
        if n == 0:
            raise ValueError(f"{successes} of 0 is no proportion")
        low, high = statistics.wilson(successes, n)
        return cls(low=round(low, 4), high=round(high, 4))


class Accuracy(_Finite):
    """Top-1 accuracy and its origin.

    `measured`: by this project on `dataset`; `reported`: by the publisher of the weights (`how` cites it);
    `inherited`: the parent's, to be read beside the card's `agreement`.
    """

    value: Fraction
    kind: Literal["measured", "reported", "inherited"]
    dataset: str
    n: PositiveCount
    interval: Interval | None = None
    correct: int | None = Field(
        default=None, ge=0, description="Images named right, of the n; where it was measured by this project"
    )
    instruction_set: str | None = Field(
        default=None, description="What the measuring CPU computed with: others round differently"
    )
    how: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.correct is not None and (
            self.correct > self.n or abs(self.correct / self.n - self.value) > 5e-5
        ):
            raise ValueError(f"{self.correct} of {self.n} right is not an accuracy of {self.value}")
        return self


class Robustness(_Finite):
    """Robustness of a model to corrupted images, each corruption at five severities.

    `accuracy`: share of `n` labelled images classified correctly; `stability`: share of `n` images, labelled
    or not, whose top-1 class is that of the clean image.
    """

    measure: Literal["accuracy", "stability"]
    dataset: str
    n: PositiveCount = Field(description="Images of each corruption at each severity")
    mean: Fraction = Field(description="Over all corruptions and severities")
    corruptions: dict[str, tuple[Fraction, Fraction, Fraction, Fraction, Fraction]] = Field(
        min_length=1, description="Severities 1 to 5 of each corruption"
    )
    how: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shares = [share for severities in self.corruptions.values() for share in severities]
        if abs(sum(shares) / len(shares) - self.mean) > 1e-4:
            raise ValueError(
                f"mean {self.mean} is not the mean of the corruptions, {sum(shares) / len(shares):.4f}"
            )
        return self


class Agreement(_Finite):
    """How often this model and its parent predict the same top-1 class."""

    parent: Name
    value: Fraction
    n: PositiveCount
    interval: Interval
    how: str


class Retrieval(_Finite):
    """Precision at k of similarity search with the model's embeddings.

    Each of `n` images outside the training set queries `gallery` others; `mean` is the mean share
    of the `k` nearest that have the query's class.
    """

    dataset: str
    k: PositiveCount
    n: PositiveCount
    gallery: PositiveCount
    mean: Fraction
    classes: dict[str, Fraction] = Field(min_length=1, description="The same for the images of each class")
    how: str


class Source(_Finite):
    """Origin and licence of the weights."""

    weights: str
    licence: str


class Card(_Finite):
    """A model card: identity, preprocessing, outputs, cost, accuracy and origin of one model."""

    schema_version: Literal[1] = 1
    name: Name
    task: Literal["image-classification"] = "image-classification"
    labels: Name = Field(description="The label set, e.g. imagenet-1k; models that share one are comparable")
    classes: PositiveCount = Field(description="1 only with `outputs.activation` sigmoid")
    architecture: str
    block: str = Field(description="Block family, e.g. inverted-residual")
    precision: Literal["fp32", "int8"]
    input: InputSpec
    outputs: Outputs
    parameters: PositiveCount = Field(
        description="Trainable parameters, batch norm unfolded, as papers count them"
    )
    macs: PositiveCount = Field(description="Multiply-accumulates of one image, batch norm left out")
    file: ModelFile
    classifier: Classifier | None = None
    accuracy: Accuracy | None = None
    robustness: Robustness | None = None
    agreement: Agreement | None = None
    derived_from: Name | None = None
    retrieval: Retrieval | None = None
    source: Source
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.outputs["logits"] != (self.classes,):
            raise ValueError(f"outputs.logits is {self.outputs['logits']} for {self.classes} classes")
        if self.classes == 1 and self.outputs.get("activation") != "sigmoid":
            raise ValueError(
                "classes is 1: its softmax is always 1 (allowed: 2 or more, or outputs.activation sigmoid)"
            )
        if (self.agreement is not None) and self.agreement.parent != self.derived_from:
            raise ValueError("agreement.parent differs from derived_from")
        if self.accuracy is not None and self.accuracy.kind == "inherited" and self.agreement is None:
            raise ValueError("an inherited accuracy needs the agreement with the parent beside it")
        return self

    @property
    def output_shapes(self) -> dict[str, Shape]:
        """The shape of each output that the network has, without the batch dimension."""
        return {name: self.outputs[name] for name in _OUTPUT_NAMES if name in self.outputs}


def read_card(folder: Path) -> Card:
    """Read and validate `folder/card.json`.

    Raises FileNotFoundError if it is missing, OSError if it cannot be read, UnicodeDecodeError if it is not
    text, and pydantic.ValidationError if it is not a valid card.
    """
    return Card.model_validate_json(read_text(folder / "card.json"))


def read_cards(zoo: Path, names: Sequence[str]) -> dict[str, Card]:
    """Read the cards of models by name. Raises ValueError, with the allowed names, for an unknown one."""
    unknown = [name for name in names if not (zoo / name / "card.json").exists()]
    if unknown:
        known = ", ".join(sorted(path.parent.name for path in zoo.glob("*/card.json")))
        raise ValueError(f"{zoo}: no model {', '.join(unknown)} (allowed: {known})")
    return {name: read_card(zoo / name) for name in names}


def write_card(folder: Path, card: Card) -> None:
    """Write `folder/card.json` atomically."""
    text = card.model_dump_json(indent=2, exclude_none=True) + "\n"
    write_whole(folder / "card.json", text.encode())
