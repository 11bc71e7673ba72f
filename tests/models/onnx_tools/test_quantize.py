"""Quantization: integer and float operators, accuracy, bias correction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from models.architectures.image_classifier import ImageClassifier  # noqa: E402
from models.architectures.initialise import randomise  # noqa: E402
from models.blocks.bottleneck import Bottleneck  # noqa: E402
from models.blocks.conv_norm_act import ConvNormAct  # noqa: E402
from models.blocks.depthwise_separable import DepthwiseSeparable  # noqa: E402
from models.blocks.fire import Fire  # noqa: E402
from models.blocks.ghost import GhostBottleneck  # noqa: E402
from models.blocks.inverted_residual import InvertedResidual  # noqa: E402
from models.blocks.norm import Norm  # noqa: E402
from models.blocks.shuffle import ShuffleUnit  # noqa: E402
from models.export.to_onnx import export  # noqa: E402
from models.onnx_tools.bias_correction import channel_means, correct_biases  # noqa: E402
from models.onnx_tools.quantize import QuantizationPlan, quantize  # noqa: E402
from models.onnx_tools.session import open_session, run  # noqa: E402
from models.zoo.agreement import compare_logits  # noqa: E402
from tests.helpers.small_network import noise, small_network  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export(small_network(), path, noise(2))
    return path


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.float32]]:
    return list(np.split(noise(12), 12))


def fused_operators(path: Path, folder: Path) -> Counter[str]:
    """Count the operators of a model after ONNX Runtime's portable graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_the_int8_variant_stays_close(
    source: Path, images: list[NDArray[np.float32]], tmp_path: Path, method: str
) -> None:
    quantize(source, tmp_path / "model.onnx", images, QuantizationPlan(method=method))  # type: ignore[arg-type]
    seen = list(np.split(noise(40, seed=5), 40))
    expected = run(open_session(source), seen)
    compared = compare_logits(expected, run(open_session(tmp_path / "model.onnx"), seen))
    assert expected.std() > 0.1
    assert compared.top_1_agreement >= 0.8
    assert compared.divergence < 0.05
    assert (tmp_path / "model.onnx").stat().st_size < 0.5 * source.stat().st_size


def test_integer_and_float_operators(source: Path, images: list[NDArray[np.float32]], tmp_path: Path) -> None:
    quantize(source, tmp_path / "model.onnx", images, QuantizationPlan())
    found = fused_operators(tmp_path / "model.onnx", tmp_path)
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(source).graph.node)
    additions = sum(node.op_type == "Add" for node in onnx.load(source).graph.node)
    assert found["QLinearConv"] == convolutions
    assert found["QLinearAdd"] == additions
    assert (found["Conv"], found["Clip"], found["Add"]) == (0, 0, 0)
    assert (found["GlobalAveragePool"], found["Gemm"]) == (1, 1)


def test_weights_use_8_bits_per_channel(
    source: Path, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    quantize(source, tmp_path / "model.onnx", images, QuantizationPlan())
    tensors = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    weight = tensors["head.conv.weight_quantized"]
    assert weight.dtype == np.int8
    assert np.abs(weight.astype(int)).max((1, 2, 3)).min() >= 126
    assert tensors["head.conv.weight_scale"].shape == (1280,)
    assert tensors["features_zero_point"].dtype == np.uint8


def test_keep_float(source: Path, images: list[NDArray[np.float32]], tmp_path: Path) -> None:
    plan = QuantizationPlan(keep_float=("stem", "blocks.0"))
    quantize(source, tmp_path / "model.onnx", images, plan)
    found = fused_operators(tmp_path / "model.onnx", tmp_path)
    assert found["Conv"] + found["FusedConv"] == 3
    tensors = {tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert {"stem.conv.weight", "blocks.0.conv_dw.weight", "blocks.0.conv_pwl.weight"} <= tensors
    assert "blocks.1.conv_pw.weight" not in tensors
    # `blocks.1` does not match `blocks.10`.
    assert QuantizationPlan(("blocks.1",)).keeps_float("blocks.1.conv_pw")
    assert not QuantizationPlan(("blocks.1",)).keeps_float("blocks.10.conv_pw")


def test_a_lone_float_convolution_is_refused(
    source: Path, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"blocks\.1\.conv_dw is alone between quantized layers"):
        quantize(source, tmp_path / "model.onnx", images, QuantizationPlan(("blocks.1.conv_dw",)))
    assert not list(tmp_path.iterdir())


def test_unknown_module_and_missing_images(
    source: Path, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"module 'blocks\.99' is not in the network"):
        quantize(source, tmp_path / "model.onnx", images, QuantizationPlan(("blocks.99",)))
    with pytest.raises(ValueError, match="calibration images: none"):
        quantize(source, tmp_path / "model.onnx", [], QuantizationPlan())
    assert not list(tmp_path.iterdir())


def test_bias_correction_restores_means(
    source: Path, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    quantize(source, tmp_path / "model.onnx", images, QuantizationPlan(correct_biases=False))
    quantized = onnx.load(tmp_path / "model.onnx")
    expected = channel_means(onnx.load(source), ["features"], images)["features"]

    def shift() -> float:
        found = channel_means(quantized, ["features"], images)["features"]
        return float(np.abs(found - expected).mean())

    before = shift()
    # A shifted bias has the effect of rounded weights, only larger.
    for tensor in quantized.graph.initializer:
        if tensor.name == "blocks.2.conv_pw.bias_quantized":
            stored = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array((stored + 3000).astype(np.int32), tensor.name))
    disturbed = shift()
    correct_biases(onnx.load(source), quantized, images)
    assert disturbed > 2 * before
    assert shift() < 0.5 * before


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with every kind of block, exported."""
    torch.manual_seed(0)
    network = ImageClassifier(
        ConvNormAct(3, 16, 3, stride=2, activation=torch.nn.ReLU),
        torch.nn.Sequential(
            torch.nn.MaxPool2d(3, stride=2, padding=1),
            ShuffleUnit(16, 16),
            GhostBottleneck(16, 16, squeezed=8),
            InvertedResidual(16, 24, squeezed=8, activation=torch.nn.Hardswish),
            Fire(24, 32, norm=Norm()),
            Bottleneck(32, 32, groups=2, bottleneck_ratio=0.5),
        ),
        DepthwiseSeparable(32, 32),
        embedding=32,
        classes=10,
        dropout=0.0,
        input_size=64,
    ).eval()
    randomise(network, 0, torch.from_numpy(noise(8)))
    path = tmp_path_factory.mktemp("mixed") / "model.onnx"
    export(network, path, noise(2))
    return path


@pytest.mark.parametrize("corrected", [True, False])
def test_every_block_computes_with_integers(
    mixed: Path, images: list[NDArray[np.float32]], tmp_path: Path, corrected: bool
) -> None:
    quantize(mixed, tmp_path / "model.onnx", images, QuantizationPlan(correct_biases=corrected))
    before = Counter(node.op_type for node in onnx.load(mixed).graph.node)
    found = fused_operators(tmp_path / "model.onnx", tmp_path)
    assert {"Relu", "HardSwish", "Split", "Transpose", "Mul", "Concat", "MaxPool"} <= set(before)
    assert found["QLinearConv"] == before["Conv"]
    assert (found["Conv"], found["FusedConv"], found["Relu"], found["Clip"]) == (0, 0, 0, 0)
    assert (found["Concat"], found["Add"]) == (0, 0)
    assert found["QLinearConcat"] == before["Concat"]
    # The poolings of the two gates are integer, the one before the classifier is float.
    assert (found["QLinearGlobalAveragePool"], found["GlobalAveragePool"]) == (2, 1)
    # Before two hard swishes and two hard sigmoids, and for the features and the embedding.
    assert found["DequantizeLinear"] <= 6

    seen = list(np.split(noise(20, seed=5), 20))
    expected, got = (run(open_session(path), seen) for path in (mixed, tmp_path / "model.onnx"))
    assert expected.std(0).min() > 0.01
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.95


def behind(model: onnx.ModelProto, value: str) -> list[onnx.NodeProto]:
    """Return the nodes that read a value."""
    return [node for node in model.graph.node if value in node.input]


def test_each_bias_is_corrected_by_the_means_behind_corrected_layers(
    mixed: Path, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    """By those of the whole network, run from its input for each bias."""
    quantize(mixed, tmp_path / "model.onnx", images, QuantizationPlan(correct_biases=False))
    floating, quantized = onnx.load(mixed), onnx.load(tmp_path / "model.onnx")
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    before = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    correct_biases(floating, quantized, images)
    checked = 0
    for node in floating.graph.node:
        name = f"{node.name}.bias_quantized"
        if node.op_type != "Conv" or name not in tensors:
            continue
        readers = behind(floating, node.output[0])
        activated = len(readers) == 1 and readers[0].op_type in ("Relu", "Clip")
        value = readers[0].output[0] if activated else node.output[0]
        corrected = onnx.numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(before[name], name))
        (convolution,) = (other for other in quantized.graph.node if other.name == node.name)
        rounded = behind(quantized, behind(quantized, convolution.output[0])[0].output[0])[0].output[0]
        shift = channel_means(floating, [value], images)[value]
        shift = shift - channel_means(quantized, [rounded], images)[rounded]
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(corrected, name))
        steps = np.round(shift / before[f"{name}_scale"])
        np.testing.assert_array_equal(corrected, before[name] + steps.astype(np.int32))
        checked += bool(steps.any())
    assert checked >= 15


def test_lone_float_convolution_before_relu(
    mixed: Path, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"blocks\.5\.conv2 is alone between quantized layers"):
        quantize(mixed, tmp_path / "model.onnx", images, QuantizationPlan(("blocks.5.conv2",)))
