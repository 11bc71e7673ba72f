"""Static int8 quantization of an exported network, calibrated on real images."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.bias_correction import correct_biases, image_input
from models.onnx_tools.segments import classifier_nodes
from models.onnx_tools.session import open_session
from models.zoo.files import write_whole

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization.calibrate import TensorsData

ARITHMETIC = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Clip", "Relu", "LeakyRelu", "GlobalAveragePool", "AveragePool"
)  # fmt: skip
"""Operators that compute with integers. The last pooling and everything after it, including the classifier,
stay in float. The embedding is therefore float, and the parent's classifier fits it. ONNX Runtime has no
integer kernels for hard swish and hard sigmoid; they compute in float between two conversions."""
MOVEMENT = ("MaxPool", "Concat", "Split", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
"""Operators that only select or move values.

They are quantized too, because in floating point they would need a conversion before and after them.
"""

BIAS_IMAGES = 64
"""Maximum number of evenly spaced calibration images for bias correction. For means, some dozens suffice."""


@dataclass(frozen=True)
class QuantizationPlan:
    """Settings of a quantization.

    `keep_float` has the names of modules that stay in floating point, together with their submodules
    (`blocks.0` includes `blocks.0.conv_dw`). `keep_nodes` has the names of single operators that stay in
    floating point. `method` says how the range of an activation is found. With the method `percentile`, the
    range contains `percentile` percent of the values. `correct_biases` says whether to apply bias correction.
    """

    keep_float: tuple[str, ...] = ()
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = 99.999
    correct_biases: bool = True
    keep_nodes: frozenset[str] = frozenset()

    def keeps_float(self, node: str) -> bool:
        """Return whether a node of the exported graph stays in floating point."""
        modules = any(node == module or node.startswith(f"{module}.") for module in self.keep_float)
        return modules or node in self.keep_nodes


class _CalibrationImages:
    """Gives the calibration images to ONNX Runtime, which accepts any object with a method `get_next`."""

    def __init__(self, name: str, images: Sequence[NDArray[Any]]) -> None:
        self._name = name
        self._images: Iterator[NDArray[Any]] = iter(images)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image}


def quantize(
    source: Path,
    target: Path,
    images: Sequence[NDArray[Any]],
    plan: QuantizationPlan,
    *,
    output: str = "logits",
) -> None:
    """Write the static int8 variant of the exported network `source` to `target`, atomically.

    The settings and the errors are those of `quantized`.
    """
    write_whole(target, quantized(source.read_bytes(), images, plan, output=output))


def quantized(
    content: bytes,
    images: Sequence[NDArray[Any]],
    plan: QuantizationPlan,
    *,
    output: str = "logits",
    ranges: Path | None = None,
    means: Mapping[str, NDArray[np.float64]] | None = None,
) -> bytes:
    """Return the static int8 variant of the ONNX file `content`.

    `output` is the name of the output with the scores. Activations become uint8 with a zero point. Weights
    become int8 with a zero point of 0 and one scale for each output channel. x86 processors with VNNI
    multiply uint8 by int8 in one instruction that needs no spare bit, so both use all 8 bits. ReLU and ReLU6
    are left out, because the range of the quantized activation cuts off the same values. `images`, each as
    the network takes it, e.g. float32 (1, 3, H, W), calibrate the ranges and correct the biases. `ranges` is
    a file in which the ranges are stored, so that later calls with the same network read them from it.
    `means` is the network's `activation_means` on the images that correct the biases: these are all images,
    or every n-th if there are more than BIAS_IMAGES. A caller that quantizes the network several times can
    compute `means` once and give it.

    Batch norm must be folded, and nodes must have names; `simplify` (models/onnx_tools/simplify.py) sees to
    both. Raises ValueError if there are no images, if `plan` names a module that the network does not have,
    or if a convolution between two quantized ones would stay in floating point.
    """
    # Imported lazily: these take 20 MB, and the service may import this module.
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import save_tensors_data
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    if not images:
        raise ValueError("calibration images: none (allowed: 1 or more)")
    model = onnx.load_from_string(content)
    nodes = [node.name for node in model.graph.node]
    for module in plan.keep_float:
        if not any(QuantizationPlan((module,)).keeps_float(node) for node in nodes):
            raise ValueError(f"keep_float: module {module!r} is not in the network")
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    kept = [
        *_last_pools(model.graph),
        *(node.name for node in classifier_nodes(model.graph, output)),
        *(node for node in nodes if plan.keeps_float(node)),
    ]
    # Tells the quantizer that batch norm is folded and shapes are known.
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        if plan.method == "minmax":
            ranges = ranges or Path(folder) / "ranges.json"
            if not ranges.exists():
                onnx.save(model, path)
                save_tensors_data(_extremes(path, images), ranges)
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
        # `content` is parsed again, because the quantizer moves the weights of its model to another file.
        step = -(-len(images) // BIAS_IMAGES)
        correct_biases(onnx.load_from_string(content), result, images[::step], means)
    del result.metadata_props[:]
    onnx.checker.check_model(result, full_check=True)
    made = bytes(result.SerializeToString())
    open_session(made)
    return made


def _extremes(path: Path, images: Sequence[NDArray[Any]]) -> TensorsData:
    """Return the least and the greatest value of each activation of a file over `images`.

    ONNX Runtime's calibrator finds the same values, but is slower. It adds two reductions for each activation
    to the network. These reductions alone take longer than this function, which runs the network without them
    and finds the minimum and the maximum with NumPy.
    """
    import onnx
    from onnxruntime.quantization.calibrate import CalibrationMethod, MinMaxCalibrater, TensorsData

    calibrator = MinMaxCalibrater(path, [*ARITHMETIC, *MOVEMENT])
    model = calibrator.model
    names, _ = calibrator.select_tensors_to_calibrate(model)
    image = image_input(model.graph)
    computed = sorted(names - {image})
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    session = open_session(model.SerializeToString(), optimised=False)
    least, greatest = dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()
    for pixels in images:
        values = dict(zip(computed, session.run(computed, {image: pixels}), strict=True))
        if image in names:
            values[image] = pixels
        for name, value in values.items():
            least[name] = np.fmin(least.get(name, np.inf), value.min(keepdims=True).reshape(1))
            greatest[name] = np.fmax(greatest.get(name, -np.inf), value.max(keepdims=True).reshape(1))
    return TensorsData(CalibrationMethod.MinMax, {name: (least[name], greatest[name]) for name in least})


def _last_pools(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes whose output is flattened, which are the poolings at the end."""
    flattened = {node.input[0] for node in graph.node if node.op_type == "Flatten"}
    return [node.name for node in graph.node if flattened.intersection(node.output)]


def _refuse_lone_convolutions(graph: onnx.GraphProto) -> None:
    """Raise ValueError if ONNX Runtime would quantize a convolution that should stay in floating point.

    When ONNX Runtime loads a model, it quantizes every convolution between integer tensors, with one scale
    for all channels. Such a convolution would lose more precision than any other.
    """
    producers = {value: node for node in graph.node for value in node.output}
    consumers: dict[str, set[str]] = {}
    for node in graph.node:
        for value in node.input:
            consumers.setdefault(value, set()).add(node.op_type)
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] in producers:
            continue
        source = producers.get(node.input[0])
        after = consumers.get(node.output[0], set())
        if after in ({"Clip"}, {"Relu"}):
            activation = next(n for n in graph.node if n.input and n.input[0] == node.output[0])
            after = consumers.get(activation.output[0], set())
        if source is not None and source.op_type == "DequantizeLinear" and after == {"QuantizeLinear"}:
            raise ValueError(
                f"keep_float: {node.name} is alone between quantized layers, and ONNX Runtime would quantize "
                f"it when it loads the model; keep a neighbouring layer too"
            )
