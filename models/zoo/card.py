"""`card.json`: the frozen, validated description of one model of the zoo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import TypedDict  # pydantic accepts typing's only from Python 3.12 on

from models.zoo import statistics
from models.zoo.detection import Detection, Role
from models.zoo.files import read_text, write_whole
from models.zoo.frozen import Finite


def _lower(given: object) -> object:
    """Convert a checksum to lower case: PowerShell's Get-FileHash writes it in upper case."""
    return given.lower() if isinstance(given, str) else given


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), BeforeValidator(_lower)]
Fraction = Annotated[float, Field(ge=0, le=1)]
MAX_COUNT = 2**53 - 1
"""Largest integer in a card. JSON parsers with double-precision numbers read it exactly."""
MAX_BATCH = 1024
"""Largest fixed batch of a graph."""
MAX_SIDE = 16_384
"""Largest side of a network's input and of the resized image, in pixels."""
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Shape = tuple[PositiveCount, ...]
Activation = Literal["none", "softmax", "sigmoid"]
"""Activation that the network itself applies to its output `logits`."""
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Resampling filters of Pillow. When Pillow makes an image smaller, it widens the filter."""
Fitting = Literal["center-crop", "stretch", "letterbox", "pad"]
"""How an image is fitted to the network's height and width; see `InputSpec`."""
Origin = Literal["file", "metadata", "pictures", "flag", "assumed"]
"""Where a fact of a card comes from: the ONNX file, files beside it, pictures, the user, or an assumption."""

Runtime = Literal["onnxruntime", "openvino", "auto"]
"""Choices of the runtime that runs a network."""
Task = Literal["image-classification", "object-detection"]
OutputName = Literal["logits", "embedding", "features"] | Role
GraphName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_CLASSIFIER_OUTPUTS: tuple[Literal["logits", "embedding", "features"], ...] = (
    "logits",
    "embedding",
    "features",
)
_DETECTOR_OUTPUTS: tuple[Role, ...] = get_args(Role)


class InputSpec(Finite):
    """Preprocessing of an image to the network's input.

    `fitting` makes the image `height` x `width` pixels:
    - `center-crop`: resizes the shorter side to `resize` pixels and cuts out the centre; if `crop_rounding`
      is `pixels`, the longer side is rounded down and the crop begins at a whole pixel, as in torchvision;
    - `stretch`: resizes to `height` x `width` and does not keep the aspect ratio;
    - `letterbox`: resizes so that the whole image fits in, centres it and fills the borders with `pad_value`;
    - `pad`: as `letterbox`, but with the image in the top left corner.

    Each channel then becomes `(value - mean) / std` on pixel values 0 to 255. Colour channels are in
    `colour_order`; grey images have one channel. `mean` and `std` are in the order of the channels. The
    result goes to the graph's input `name` in its `layout` and `dtype`: (N, channels, height, width) for
    `nchw`, (N, height, width, channels) for `nhwc`. `batch` is the fixed N of the graph, None where N is
    free.

    `polarity` describes the training images. `light-on-dark` (grey only) means light objects on a dark
    background: an image with a light background is inverted (255 - value) before normalisation. A
    background is light if more than half of the pixels in the four corners of the crop exceed 127.5. Each
    corner is a square whose side is 1/9 of the crop's shorter side.
    """

    height: Side
    width: Side
    channels: Literal[1, 3] = 3
    resize: Side = Field(
        description="Pixels of the shorter side before the centre crop; max(height, width) for other fittings"
    )
    crop: Literal["center"] = "center"
    mean: tuple[float, ...] = Field(description="Per channel, in pixel values 0 to 255")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        description="Per channel, in pixel values 0 to 255"
    )
    interpolation: Interpolation
    polarity: Literal["as-is", "light-on-dark"] = "as-is"
    name: str = Field(default="image", min_length=1, max_length=256, description="Input of the graph")
    layout: Literal["nchw", "nhwc"] = "nchw"
    colour_order: Literal["rgb", "bgr"] = "rgb"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    batch: Annotated[int, Field(gt=0, le=MAX_BATCH)] | None = None
    fitting: Fitting = "center-crop"
    crop_rounding: Literal["exact", "pixels"] = "exact"
    pad_value: Annotated[int, Field(ge=0, le=255)] = Field(
        default=114, description="Value of the borders that letterbox and pad add, in all channels"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_crop(cls, given: object) -> object:
        """Fill in `resize` if it is missing and the fitting does not use it."""
        if isinstance(given, dict) and "resize" not in given:
            sides = [side for side in (given.get("height"), given.get("width")) if isinstance(side, int)]
            if given.get("fitting", "center-crop") != "center-crop" and len(sides) == 2:
                return given | {"resize": max(sides)}
        return given

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
        if self.colour_order == "bgr" and self.channels != 3:
            raise ValueError("colour_order bgr is for three channels")
        if self.dtype == "uint8" and (any(self.mean) or any(value != 1 for value in self.std)):
            raise ValueError("dtype uint8 takes pixel values as they are (allowed: mean 0, std 1)")
        return self

    @property
    def graph_shape(self) -> tuple[int, int, int]:
        """Shape of one image in the graph's layout."""
        if self.layout == "nhwc":
            return (self.height, self.width, self.channels)
        return (self.channels, self.height, self.width)


class Outputs(TypedDict):
    """Shape of each output in the graph, without the batch dimension, and how to read `logits`.

    A classifier has `logits` and optionally `embedding` and `features`; a detector has what its decoder needs
    (`models/zoo/detection.py`).

    `names`: names in the graph, for outputs that have another name there. If there is no `activation`, the
    last operator of the file determines it. `class_offset`: number of logits or scores before the first
    class: 1 if a background class comes first, or if a detector's class ids begin at 1; otherwise 0. If it is
    given and there is one logit more than classes, one logit is that of a background class, which is neither
    counted nor reported: the first logit if `class_offset` is 1, the last if it is 0. `multi_label`: more
    than one class may be right, each with its own probability.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    logits: NotRequired[Shape]
    embedding: NotRequired[Shape]
    features: NotRequired[Shape]
    boxes: NotRequired[Shape]
    scores: NotRequired[Shape]
    classes: NotRequired[Shape]
    count: NotRequired[Shape]
    selected: NotRequired[Shape]
    heatmap: NotRequired[Shape]
    size: NotRequired[Shape]
    offset: NotRequired[Shape]
    landmarks: NotRequired[Shape]
    activation: NotRequired[Activation]
    names: NotRequired[dict[OutputName, GraphName]]
    class_offset: NotRequired[Literal[0, 1]]
    multi_label: NotRequired[bool]


class File(Finite):
    """Name, size and checksum of a file in the model's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    bytes: PositiveCount
    sha256: Sha256


class DataFile(Finite):
    """Size and checksum of a file with tensors; `name` is its path from the ONNX file's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", max_length=1024)
    bytes: PositiveCount
    sha256: Sha256


class GivenFile(File):
    """An ONNX file as it was given, with its external data files."""

    data: tuple[DataFile, ...] = ()


class ModelFile(File):
    """Facts of the ONNX file that can be recomputed from it."""

    opset: PositiveCount
    initializer_elements: Count


class Classifier(Finite):
    """Final linear layer in its own file: `weight` float32 (classes, embedding) and `bias` (classes,)."""

    model: Name = Field(description="The model whose folder holds the file; an int8 variant names its parent")
    file: File


class Interval(Finite):
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


class Accuracy(Finite):
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
        default=None, ge=0, description="Correctly classified images, of n; only if measured by this project"
    )
    instruction_set: str | None = Field(
        default=None, description="Instruction sets of the measuring CPU; other CPUs round differently"
    )
    how: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.correct is not None and (
            self.correct > self.n or abs(self.correct / self.n - self.value) > 5e-5
        ):
            raise ValueError(f"{self.correct} of {self.n} right is not an accuracy of {self.value}")
        return self


class Robustness(Finite):
    """Robustness of a model to corrupted images, each corruption at five severities.

    `accuracy`: share of `n` labelled images classified correctly; `stability`: share of `n` images, labelled
    or not, whose top-1 class is that of the clean image.
    """

    measure: Literal["accuracy", "stability"]
    dataset: str
    n: PositiveCount = Field(description="Images of each corruption at each severity")
    mean: Fraction = Field(description="Mean share over all corruptions and severities")
    corruptions: dict[str, tuple[Fraction, Fraction, Fraction, Fraction, Fraction]] = Field(
        min_length=1, description="Shares at severities 1 to 5 of each corruption"
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


class Agreement(Finite):
    """How often this model and its parent predict the same top-1 class."""

    parent: Name
    value: Fraction
    n: PositiveCount
    interval: Interval
    how: str


class Retrieval(Finite):
    """Precision at k of similarity search with the model's embeddings.

    Each of `n` images outside the training set is a query to a gallery of `gallery` other images. `mean`:
    share of the `k` nearest images that have the query's class, averaged over the queries.
    """

    dataset: str
    k: PositiveCount
    n: PositiveCount
    gallery: PositiveCount
    mean: Fraction
    classes: dict[str, Fraction] = Field(min_length=1, description="`mean` for queries of each class")
    how: str


class Source(Finite):
    """Origin and licence of the weights."""

    weights: str
    licence: str


class Fact(Finite):
    """Where one fact of a card comes from.

    `undecided`: the values of the fact that labelled pictures could not tell apart. The card's value is one
    of them.
    """

    origin: Origin
    detail: str | None = Field(default=None, description="The file, option or evidence, in words")
    undecided: tuple[str, ...] = ()


class Card(Finite):
    """A model card: identity, preprocessing, outputs, cost, accuracy and origin of one model.

    Version 1 is still read. Version 2 adds, for networks from elsewhere, `format`, `given`, `provenance`, the
    precision `fp16`, and those fields of `input` and `outputs` that have defaults. It also adds the field
    `runtime`, and detectors with the fields `task` and `detection`.
    """

    schema_version: Literal[1, 2] = 1
    format: Literal["onnx"] = "onnx"
    name: Name
    task: Task = "image-classification"
    labels: Name = Field(description="The label set, e.g. imagenet-1k; models that share one are comparable")
    classes: PositiveCount = Field(description="1 for a classifier only with `outputs.activation` sigmoid")
    architecture: str
    block: str = Field(description="Block family, e.g. inverted-residual")
    precision: Literal["fp32", "fp16", "int8"]
    input: InputSpec
    outputs: Outputs
    detection: Detection | None = Field(default=None, description="How a detector's outputs become boxes")
    runtime: Runtime | None = Field(
        default=None, description="Runtime of predictions; null: the service's setting decides"
    )
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
    given: GivenFile | None = Field(
        default=None, description="The file that the model was added from, if the served one differs"
    )
    provenance: dict[str, Fact] = Field(
        default_factory=dict, description="Origin of each fact, by its path in the card, e.g. input.layout"
    )
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _of_its_version(self) -> Self:
        """Refuse fields of version 2 in a card of version 1: they would be lost when the card is written."""
        if self.schema_version == 1:
            later = [name for name in ("given", "provenance", "detection", "runtime") if getattr(self, name)]
            later += [
                f"input.{name}"
                for name in sorted(_ADDED_BY_VERSION_2["input"])
                if getattr(self.input, name) != InputSpec.model_fields[name].default
            ]
            later += [f"outputs.{name}" for name in _OUTPUTS_OF_VERSION_2 if name in self.outputs]
            if self.precision == "fp16":
                later.append("precision fp16")
            if later:
                raise ValueError(f"{', '.join(later)}: not in version 1 (allowed: schema_version 2)")
        return self

    @model_validator(mode="after")
    def _outputs_of_its_task(self) -> Self:
        """Refuse outputs that the task does not have, and shapes that contradict each other."""
        detection = self.detection
        if detection is None and self.task == "object-detection":
            raise ValueError("detection: missing (needed by task object-detection)")
        if detection is not None and self.task != "object-detection":
            raise ValueError(f"detection: not a field of task {self.task} (allowed: object-detection)")
        roles: dict[Role, Shape] = {
            name: self.outputs[name] for name in _DETECTOR_OUTPUTS if name in self.outputs
        }
        if detection is None:
            if roles:
                raise ValueError(f"outputs.{next(iter(roles))}: not an output of task {self.task}")
            if "logits" not in self.outputs:
                raise ValueError(f"outputs.logits: missing (needed by task {self.task})")
            self._check_logits()
            return self
        others = (*_CLASSIFIER_OUTPUTS, "activation", "multi_label")
        wrong = [f"outputs.{name}" for name in others if name in self.outputs]
        wrong += [name for name in _OF_CLASSIFIERS if getattr(self, name) is not None]
        if wrong:
            raise ValueError(f"{wrong[0]}: not a field of task {self.task}")
        size = (self.input.height, self.input.width)
        problem = detection.problem(roles, size, self.classes, self.class_offset)
        if problem is not None:
            raise ValueError(f"outputs.{problem}")
        return self

    def _check_logits(self) -> None:
        logits = math.prod(self.outputs["logits"])
        most = self.classes + ("class_offset" in self.outputs)
        if not self.classes + self.class_offset <= logits <= most or max(self.outputs["logits"]) != logits:
            words = f"{self.classes} classes and class_offset {self.class_offset}"
            raise ValueError(f"outputs.logits is {self.outputs['logits']} for {words}")
        if self.classes == 1 and self.outputs.get("activation") != "sigmoid":
            raise ValueError(
                "classes is 1: its softmax is always 1 (allowed: 2 or more, or outputs.activation sigmoid)"
            )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.agreement is not None) and self.agreement.parent != self.derived_from:
            raise ValueError("agreement.parent differs from derived_from")
        if self.accuracy is not None and self.accuracy.kind == "inherited" and self.agreement is None:
            raise ValueError("an inherited accuracy needs the agreement with the parent beside it")
        return self

    @property
    def output_shapes(self) -> dict[str, Shape]:
        """The shape of each output that the network has, without the batch dimension."""
        names = (*_CLASSIFIER_OUTPUTS, *_DETECTOR_OUTPUTS)
        return {name: self.outputs[name] for name in names if name in self.outputs}

    @property
    def main_outputs(self) -> tuple[str, ...]:
        """The outputs from which predictions are made.

        For a classifier, this is `logits`. For a detector, these are all outputs that its decoder reads.
        """
        return ("logits",) if self.detection is None else tuple(self.output_shapes)

    def output_name(self, output: str) -> str:
        """Return the name that the graph uses for `output`, e.g. logits."""
        return next((name for own, name in self.outputs.get("names", {}).items() if own == output), output)

    @property
    def class_offset(self) -> int:
        """The number of logits or scores before the first class.

        It is 1 if a background class comes first. Otherwise it is 0.
        """
        return self.outputs.get("class_offset", 0)

    @property
    def assumed(self) -> tuple[str, ...]:
        """The facts of the card that are only assumed, each as its path in the card."""
        return tuple(name for name, fact in self.provenance.items() if fact.origin == "assumed")

    @property
    def doubtful(self) -> tuple[str, ...]:
        """The assumed facts on which predictions depend, by path in the card; not the licence, e.g."""
        return tuple(name for name in self.assumed if decides_predictions(name))


_ADDED_BY_VERSION_2: dict[str, Any] = {
    "format": True,
    "given": True,
    "provenance": True,
    "runtime": True,
    "input": {"name", "layout", "colour_order", "dtype", "batch", "fitting", "crop_rounding", "pad_value"},
}


_OUTPUTS_OF_VERSION_2 = ("names", "class_offset", "multi_label")
_OF_CLASSIFIERS = ("classifier", "accuracy", "robustness", "agreement", "retrieval")
"""Fields that describe classes and embeddings, which a detector does not have."""


def decides_predictions(path: str) -> bool:
    """Return whether predictions depend on the fact at `path` of a card."""
    return path == "labels" or path.startswith(("input.", "outputs.", "detection."))


def read_card(folder: Path) -> Card:
    """Read and validate `folder/card.json`.

    Raises FileNotFoundError if it is missing, OSError if it cannot be read, UnicodeDecodeError if it is not
    text, and pydantic.ValidationError if it is not a valid card.
    """
    return Card.model_validate_json(read_text(folder / "card.json"))


def read_cards(zoo: Path, names: Sequence[str]) -> dict[str, Card]:
    """Return the cards of the models `names`, by name.

    Raises ValueError, whose message has the allowed names, for an unknown name.
    """
    unknown = [name for name in names if not (zoo / name / "card.json").exists()]
    if unknown:
        known = ", ".join(sorted(path.parent.name for path in zoo.glob("*/card.json")))
        raise ValueError(f"{zoo}: no model {', '.join(unknown)} (allowed: {known})")
    return {name: read_card(zoo / name) for name in names}


def write_card(folder: Path, card: Card) -> None:
    """Write `folder/card.json` atomically."""
    later = _ADDED_BY_VERSION_2 if card.schema_version == 1 else None
    text = card.model_dump_json(indent=2, exclude_none=True, exclude=later) + "\n"
    write_whole(folder / "card.json", text.encode())
