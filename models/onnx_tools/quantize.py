"""Static int8 quantization of an exported network, calibrated on real images."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from models.onnx_tools.bias_correction import correct_biases, image_input
from models.onnx_tools.segments import classifier_nodes
from models.onnx_tools.session import open_session
from models.zoo.files import write_whole

if TYPE_CHECKING:
    import onnx

ARITHMETIC = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Clip", "Relu", "LeakyRelu", "GlobalAveragePool", "AveragePool"
)  # fmt: skip
"""Operators that compute with integers. The last pooling and all behind it are excepted, the classifier among
them, so the embedding is float and the parent's classifier fits it. ONNX Runtime has no integer kernels for
hard swish and hard sigmoid: they compute in floating point between two conversions."""
MOVEMENT = ("MaxPool", "Concat", "Split", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
"""Operators that only choose or move values and would otherwise force conversions around them."""

BIAS_IMAGES = 64
"""At most so many of the calibration images, evenly spread, correct biases: means settle with some dozens."""


@dataclass(frozen=True)
class QuantizationPlan:
    """How a network is quantized.

    `keep_float`: modules that stay in floating point, each with all that lies below it (`blocks.0` keeps
    `blocks.0.conv_dw`); `keep_nodes`: single operators that do. `method` sets the ranges of activations;
    `percentile`: with that method, the share of an activation's values, in percent, that its range must hold.
    `correct_biases`: whether the rounding's systematic shift is taken back.
    """

    keep_float: tuple[str, ...] = ()
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = 99.999
    correct_biases: bool = True
    keep_nodes: frozenset[str] = frozenset()

    def keeps(self, node: str) -> bool:
        """Return whether a node of the exported graph stays in floating point."""
        modules = any(node == module or node.startswith(f"{module}.") for module in self.keep_float)
        return modules or node in self.keep_nodes


class _CalibrationImages:
    """Hands images to onnxruntime one at a time, which takes any object with `get_next` for a reader."""

    def __init__(self, name: str, images: Sequence[NDArray[Any]]) -> None:
        self._name = name
        self._images: Iterator[NDArray[Any]] = iter(images)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image}


def quantize(source: Path, target: Path, images: Sequence[NDArray[Any]], plan: QuantizationPlan) -> None:
    """Write the int8 variant of the exported network `source` to `target`, whole or not at all.

    As `quantized`, which also says what is raised.
    """
    write_whole(target, quantized(source.read_bytes(), images, plan))


def quantized(
    content: bytes,
    images: Sequence[NDArray[Any]],
    plan: QuantizationPlan,
    *,
    output: str = "logits",
    ranges: Path | None = None,
) -> bytes:
    """Return the int8 variant of the ONNX file `content`, whose scores are its output `output`.

    Activations are unsigned with a zero point of their own, weights signed and symmetric per output channel:
    the pair that x86 multiplies in one instruction (VNNI), with all 8 bits. ReLU6 becomes the range of the
    quantized activation and is no step of its own, and so does ReLU. `images`, each as the network takes it,
    e.g. float32 (1, 3, H, W), set the ranges and correct the biases. `ranges`: a file that keeps the ranges
    for the next call with the same network; they are read from it where it exists.

    Batch norm must be folded and nodes have names of their own (`simplify` in models/onnx_tools/simplify.py
    sees to both). Raises ValueError when there are no images, or `plan` keeps a module that the network does
    not have or a single convolution between quantized ones.
    """
    # Here, for they take 20 MB, and the service may import this module.
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    if not images:
        raise ValueError("quantization needs at least one image to calibrate on")
    model = onnx.load_from_string(content)
    nodes = [node.name for node in model.graph.node]
    for module in plan.keep_float:
        if not any(QuantizationPlan((module,)).keeps(node) for node in nodes):
            raise ValueError(f"the network has no module {module!r} to keep in floating point")
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    kept = [
        *_last_pools(model.graph),
        *(node.name for node in classifier_nodes(model.graph, output)),
        *(node for node in nodes if plan.keeps(node)),
    ]
    # Tells the quantizer that batch norm is folded and shapes are known.
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        quantize_static(
            model,
            path,
            _CalibrationImages(image_input(model.graph), images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*ARITHMETIC, *MOVEMENT],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=False,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[plan.method],
            calibration_cache_path=ranges,
            extra_options={"CalibPercentile": plan.percentile, "MatMulConstBOnly": True},
        )
        result = onnx.load(path)
    _refuse_lone_convolutions(result.graph)
    if plan.correct_biases:
        # Read again, for the quantizer moves the weights of the model that it is given to a file of its own.
        step = -(-len(images) // BIAS_IMAGES)
        correct_biases(onnx.load_from_string(content), result, images[::step])
    del result.metadata_props[:]
    onnx.checker.check_model(result, full_check=True)
    made = bytes(result.SerializeToString())
    open_session(made)
    return made


def _last_pools(graph: onnx.GraphProto) -> list[str]:
    """Names of the poolings that are flattened, for a classifier or as an output."""
    flattened = {node.input[0] for node in graph.node if node.op_type == "Flatten"}
    return [node.name for node in graph.node if flattened.intersection(node.output)]


def _refuse_lone_convolutions(graph: onnx.GraphProto) -> None:
    """Raise ValueError where onnxruntime would quantize a convolution that was kept in floating point.

    It does so, when it loads the model, with every one that has integers before and behind it, and with one
    scale for all channels: the convolution would lose more precision than any other.
    """
    sources = {value: node for node in graph.node for value in node.output}
    followers: dict[str, set[str]] = {}
    for node in graph.node:
        for value in node.input:
            followers.setdefault(value, set()).add(node.op_type)
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] in sources:
            continue
        source = sources.get(node.input[0])
        after = followers.get(node.output[0], set())
        if after in ({"Clip"}, {"Relu"}):
            activation = next(n for n in graph.node if n.input and n.input[0] == node.output[0])
            after = followers.get(activation.output[0], set())
        if source is not None and source.op_type == "DequantizeLinear" and after == {"QuantizeLinear"}:
            raise ValueError(
                f"{node.name} is kept in floating point alone between quantized layers, and onnxruntime "
                f"would quantize it when it loads the model; keep a neighbour of it too"
            )
