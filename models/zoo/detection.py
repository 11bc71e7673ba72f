"""How the outputs of an object detector become boxes: the `detection` field of a card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.zoo.frozen import Finite

MAX_CANDIDATES = 10_000
"""Maximum number of boxes of an image that can be kept, before and after suppression."""

Role = Literal["boxes", "scores", "classes", "count", "selected", "heatmap", "size", "offset", "landmarks"]
"""What an output of a detector holds. The decoders below explain each role."""
Shape = tuple[int, ...]
ScoreActivation = Literal["none", "sigmoid", "softmax"]
"""Function that maps the graph's scores to 0 to 1. Softmax is over the classes of one box."""
BoxFormat = Literal["xyxy", "yxyx", "cxcywh"]
"""Order of a box's four numbers. They are two corners (x or y first), or the centre, width and height."""
Suppression = Literal["by-class", "over-classes", "none"]
"""Which boxes suppress one another: only boxes of the same class, all boxes, or none."""

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Side = Annotated[int, Field(gt=0, le=16_384)]


class SsdAnchors(Finite):
    """Boxes relative to the anchors of SSD (arXiv:1512.02325), laid out as MediaPipe and TensorFlow do.

    Outputs: `boxes` (anchors, 4), `scores` (anchors, classes). A box is (y, x, height, width), each
    multiplied by its number in `box_scales`. y and x are the shift of the centre from the anchor's, in units
    of the anchor's size. Height and width are logarithms of the size relative to the anchor's.

    A layer has ceil(height / stride) x ceil(width / stride) cells, row by row, with the anchors of a cell one
    after another. Coordinates are fractions of the input: an anchor is centred at (row + `anchor_offset`) /
    rows down and (column + `anchor_offset`) / columns across, where rows and columns are its layer's numbers
    of cells. The layers' scales rise linearly from `min_scale` to `max_scale`; if there is only one layer,
    its scale is the mean of these. A cell has one anchor per aspect ratio. If
    `interpolated_scale_aspect_ratio` is given, the cell has another anchor of this ratio. Its scale is the
    geometric mean of this layer's and the next layer's scale; for the last layer, the next scale is 1. With
    `reduce_boxes_in_lowest_layer`, a cell of the first layer has three anchors instead: one of scale 0.1 and
    ratio 1, and two of the layer's scale, with ratios 2 and 1/2.
    """

    kind: Literal["ssd-anchors"]
    strides: tuple[_Side, ...] = Field(min_length=1, max_length=16, description="Of each layer, increasing")
    min_scale: _Fraction
    max_scale: _Fraction
    aspect_ratios: tuple[_Positive, ...] = Field(min_length=1, max_length=16)
    interpolated_scale_aspect_ratio: _Positive | None = 1.0
    reduce_boxes_in_lowest_layer: bool = True
    anchor_offset: _Fraction = 0.5
    box_scales: tuple[_Positive, _Positive, _Positive, _Positive] = (10.0, 10.0, 5.0, 5.0)
    activation: ScoreActivation = "sigmoid"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(later <= earlier for earlier, later in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"strides {self.strides}: not increasing")
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(f"scales {self.min_scale} to {self.max_scale} (allowed: 0 < min <= max)")
        return self

    def anchors(self, height: int, width: int) -> int:
        """Return the number of anchors for an input of `height` x `width` pixels."""
        per_cell = len(self.aspect_ratios) + (self.interpolated_scale_aspect_ratio is not None)
        return sum(
            math.ceil(height / stride)
            * math.ceil(width / stride)
            * (3 if self.reduce_boxes_in_lowest_layer and number == 0 else per_cell)
            for number, stride in enumerate(self.strides)
        )

    def shapes(
        self, given: Mapping[Role, Shape], size: tuple[int, int], classes: int, offset: int
    ) -> dict[Role, Shape]:
        """Return the shape of each output that the decoder needs, by the output's role.

        `Detection.problem` explains the arguments.
        """
        del given
        anchors = self.anchors(*size)
        return {"boxes": (anchors, 4), "scores": (anchors, offset + classes)}


class CentrePoints(Finite):
    """One box per peak of a heat map, as in CenterNet (arXiv:1904.07850) and CenterFace (arXiv:1911.03599).

    Outputs, each (channels, height / stride, width / stride): `heatmap`, the score of each class; `size`, the
    logarithm of the box's height and width in units of the stride; `offset`, y and x from the middle of the
    cell to the box's centre, in cells. If `landmarks` is not 0, also `landmarks`: y and x of each landmark
    from the box's top left corner, in units of the box's height and width.
    """

    kind: Literal["centre-points"]
    stride: _Side = 4
    landmarks: Annotated[int, Field(ge=0, le=256)] = 0

    def shapes(
        self, given: Mapping[Role, Shape], size: tuple[int, int], classes: int, offset: int
    ) -> dict[Role, Shape]:
        """Return the shape of each output that the decoder needs, by the output's role.

        `Detection.problem` explains the arguments.
        """
        del given
        cells = (math.ceil(size[0] / self.stride), math.ceil(size[1] / self.stride))
        needed: dict[Role, Shape] = {
            "heatmap": (offset + classes, *cells),
            "size": (2, *cells),
            "offset": (2, *cells),
        }
        return needed | ({"landmarks": (2 * self.landmarks, *cells)} if self.landmarks else {})


class _InputBoxes(Finite):
    """Common fields of decoders whose boxes are coordinates in the network's input."""

    format: BoxFormat
    unit: Literal["pixels", "fractions"] = Field(description="Unit of the boxes, in the network's input")
    activation: ScoreActivation = "none"


class DecodedBoxes(_InputBoxes):
    """Boxes that the graph decodes, as exported from TensorFlow's Object Detection API, torchvision and DETR.

    Outputs: `boxes` (N, 4), and either `scores` of each box and class (N, classes), or one score per box (N,)
    and `classes` (N,), the class ids. With a single class, scores (N,) need no `classes`. Optionally `count`,
    () or (1,): the number of valid boxes. The first `outputs.class_offset` classes, in `scores` or as ids in
    `classes`, are not reported. With `no_object`, each box has one more score, after those of the classes:
    that there is no object in the box. With `boxes_first`, the graph has no batch dimension, and the number
    of boxes varies: shapes omit N.
    """

    kind: Literal["decoded-boxes"]
    scores_layout: Literal["boxes-classes", "classes-boxes"] = "boxes-classes"
    no_object: bool = False
    boxes_first: bool = False

    def shapes(
        self, given: Mapping[Role, Shape], size: tuple[int, int], classes: int, offset: int
    ) -> dict[Role, Shape]:
        """Return the shape of each output that the decoder needs, by the output's role.

        `Detection.problem` explains the arguments.
        """
        del size
        rows = () if self.boxes_first else given.get("boxes", (1,))[:1]
        needed: dict[Role, Shape] = {"boxes": (*rows, 4)}
        if "classes" in given:
            needed |= {"scores": rows, "classes": rows}
        elif classes == 1 and not offset and not self.no_object and given.get("scores") == rows:
            needed |= {"scores": rows}
        elif self.scores_layout == "boxes-classes":
            needed |= {"scores": (*rows, offset + classes + self.no_object)}
        else:
            needed |= {"scores": (offset + classes + self.no_object, *rows)}
        if "count" in given:
            needed |= {"count": (1,) if given["count"] else ()}
        return needed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.boxes_first and self.scores_layout == "classes-boxes":
            raise ValueError("scores_layout classes-boxes: not with boxes_first (allowed: boxes-classes)")
        return self


class SelectedBoxes(_InputBoxes):
    """Boxes that ONNX's NonMaxSuppression selected, together with all boxes and scores that it read.

    Outputs: `boxes` (N, 4), `scores` (classes, N) and `selected`, whose rows are indices of image, class and
    box; the number of rows varies and is left out of its shape (3,).
    """

    kind: Literal["selected-boxes"]

    def shapes(
        self, given: Mapping[Role, Shape], size: tuple[int, int], classes: int, offset: int
    ) -> dict[Role, Shape]:
        """Return the shape of each output that the decoder needs, by the output's role.

        `Detection.problem` explains the arguments.
        """
        del size
        rows = given.get("boxes", (1,))[:1]
        return {"boxes": (*rows, 4), "scores": (offset + classes, *rows), "selected": (3,)}


Decoder = Annotated[SsdAnchors | CentrePoints | DecodedBoxes | SelectedBoxes, Field(discriminator="kind")]


class Detection(Finite):
    """Decoder of a detector, and the defaults of a request.

    The best `candidates` of the boxes with at least `min_score` are kept. Of these, boxes that overlap a
    better one by more than `iou` (intersection over union) are dropped, as `suppression` says. Of the boxes
    that remain, the best `max_detections` are returned.
    """

    decoder: Decoder
    min_score: _Fraction
    max_detections: Annotated[int, Field(gt=0, le=MAX_CANDIDATES)] = 100
    iou: _Fraction = 0.5
    suppression: Suppression = "by-class"
    candidates: Annotated[int, Field(gt=0, le=MAX_CANDIDATES)] = 400

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_detections > self.candidates:
            raise ValueError(f"max_detections {self.max_detections} (allowed: up to candidates)")
        if isinstance(self.decoder, SelectedBoxes) and self.suppression != "none":
            raise ValueError(
                f"suppression {self.suppression}: the graph has suppressed boxes already (allowed: none)"
            )
        return self

    def problem(
        self, given: Mapping[Role, Shape], size: tuple[int, int], classes: int, offset: int
    ) -> str | None:
        """Return, in words, how the outputs of a card contradict the decoder, or None if they fit.

        `given`: shapes by role, without the batch dimension; `size`: (height, width) of the network's input;
        `offset`: number of classes before the first one that is reported.
        """
        needed = self.decoder.shapes(given, size, classes, offset)
        missing = [role for role in needed if role not in given]
        if missing:
            return f"{missing[0]}: missing (needed by {self.decoder.kind}: {', '.join(needed)})"
        unknown = [role for role in given if role not in needed]
        if unknown:
            return f"{unknown[0]}: not an output of {self.decoder.kind} (allowed: {', '.join(needed)})"
        for role, shape in needed.items():
            if given[role] != shape:
                return f"{role} is {given[role]} (needed by {self.decoder.kind}: {shape})"
        softmax = getattr(self.decoder, "activation", "none") == "softmax"
        if softmax and classes + offset + getattr(self.decoder, "no_object", False) == 1:
            return "scores: the softmax of a single class is always 1 (allowed: sigmoid, none)"
        return None
