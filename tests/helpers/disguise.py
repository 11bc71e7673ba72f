"""A classifier whose graph expects another input and gives another output than its own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.own_models.sources.conventions import NORMALISATIONS

RANGES = {"0 to 255": (1.0, 0.0), "0 to 1": (255.0, 0.0), "-1 to 1": (127.5, 127.5)}
"""Factor and summand that bring each range to pixel values 0 to 255."""
IMAGENET = "ImageNet mean and deviation"


def disguise(
    model: onnx.ModelProto,
    mean: float,
    std: float,
    *,
    layout: str = "nchw",
    order: str = "rgb",
    range_: str = "0 to 255",
    softmax: bool = False,
    background: bool = False,
) -> onnx.ModelProto:
    """Return `model`, which takes `image` as `(rgb - mean) / std`, with an input `x` and an output `y`.

    `x` is float32 in `layout`, with its channels in `order` and values in `range_` (of RANGES, or IMAGENET);
    `y` are the logits, with a background class before the first one, through softmax.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    (given,) = graph.input
    channels, height, width = (side.dim_value for side in given.type.tensor_type.shape.dim[1:])
    if range_ == IMAGENET:
        summand, factor = np.array(NORMALISATIONS[IMAGENET])[:, :, None, None]
    else:
        factor, summand = RANGES[range_]
    tensors = {
        "disguise.factor": np.array(factor / std, np.float32),
        "disguise.summand": np.array((summand - mean) / std, np.float32),
        "disguise.order": np.array([2, 1, 0], np.int64),
        "disguise.background": np.array([[-3.0]], np.float32),
        "disguise.one": np.array([1], np.int64),
    }
    before, last = [], "x"

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        before.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    if layout == "nhwc":
        last = add("Transpose", [last], "disguise.moved", perm=[0, 3, 1, 2])
    if order == "bgr":
        last = add("Gather", [last, "disguise.order"], "disguise.rgb", axis=1)
    last = add("Mul", [last, "disguise.factor"], "disguise.scaled")
    add("Add", [last, "disguise.summand"], given.name)
    after, last = [], "logits"
    if background:
        after += [
            helper.make_node("Shape", ["logits"], ["disguise.n"], start=0, end=1),
            helper.make_node("Concat", ["disguise.n", "disguise.one"], ["disguise.shape"], axis=0),
            helper.make_node("Expand", ["disguise.background", "disguise.shape"], ["disguise.first"]),
            helper.make_node("Concat", ["disguise.first", "logits"], ["disguise.all"], axis=1),
        ]
        last = "disguise.all"
    after.append(helper.make_node("Softmax" if softmax else "Identity", [last], ["y"]))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in tensors.items())
    classes = next(v for v in graph.output if v.name == "logits").type.tensor_type.shape.dim[1].dim_value
    shape = ["N", channels, height, width] if layout == "nchw" else ["N", height, width, channels]
    del graph.input[:]
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes + background]))
    onnx.checker.check_model(model)
    return model


def of_size(model: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """Return `model`, which pools its features over any height and width, for images of `side` x `side`."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    for dimension in graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = side
    for value in graph.output:
        for dimension in value.type.tensor_type.shape.dim[2:]:
            dimension.Clear()
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def stretched(model: onnx.ModelProto, aspect: float) -> onnx.ModelProto:
    """Return `model` for pictures of this aspect ratio that were squeezed to squares: it widens them again.

    What is then outside of its square input is cut off, on both sides.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    (given,) = graph.input
    side = given.type.tensor_type.shape.dim[3].dim_value
    wide = round(side * aspect)
    start = (wide - side) // 2
    tensors = {
        "stretched.scales": np.array([1, 1, 1, wide / side], np.float32),
        "stretched.start": np.array([start], np.int64),
        "stretched.end": np.array([start + side], np.int64),
        "stretched.axis": np.array([3], np.int64),
    }
    nodes = [
        helper.make_node(
            "Resize", ["x", "", "stretched.scales"], ["stretched.wide"], mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node(
            "Slice", ["stretched.wide", "stretched.start", "stretched.end", "stretched.axis"], [given.name]
        ),
        *graph.node,
    ]  # fmt: skip
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in tensors.items())
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side]))
    onnx.checker.check_model(model)
    return model
