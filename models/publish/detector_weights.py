"""Load the published weights that `make detectors` fetched into this project's object detectors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.architectures.detectors import CenterFace, Detector, SsdMobileNetV2
from models.blocks.inverted_residual import InvertedResidual
from models.errors import ModelsError
from models.publish.pretrained import NORM, translated

FILES = {
    "ssd-mobilenet-v2": (
        "ssd-mobilenet-v2.tflite",
        "d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6",
    ),
    "centerface": (
        "centerface.onnx",
        "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    ),
}
"""Name and SHA-256 of the published file of each detector."""


class PublishedFileError(ModelsError):
    """A published file is missing, or its SHA-256 is not the expected one."""


def published_file(name: str, folder: Path) -> Path:
    """Return the path of a detector's published file in `folder`.

    Raises PublishedFileError if it is missing or its SHA-256 is not the expected one.
    """
    file, expected = FILES[name]
    path = folder / file
    if not path.is_file():
        raise PublishedFileError(f"{path}: not there; run: make detectors")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise PublishedFileError(f"{path}: SHA-256 {found} (allowed: {expected})")
    return path


def load_ssd_mobilenet_v2(path: Path) -> SsdMobileNetV2:
    """Return the SSD with the float16 weights of a `.tflite` file, in evaluation mode.

    Raises WeightsMismatchError if the weights do not fit.
    """
    network = SsdMobileNetV2()
    _load(network, tflite_weights(path), ssd_keys(network))
    return network


def load_centerface(path: Path) -> CenterFace:
    """Return CenterFace with the weights of the published ONNX file, in evaluation mode.

    Raises WeightsMismatchError if the weights do not fit.
    """
    network = CenterFace()
    _load(network, onnx_weights(path), centerface_keys(network))
    return network


def _load(network: Detector, reference: Mapping[str, Tensor], keys: Mapping[str, str]) -> None:
    """Load `reference` into `network` and set it to evaluation mode.

    Where a batch norm was folded into its convolution, `reference` has a bias of this convolution instead.
    The batch norm in `network` is then set to add this bias and to do nothing else.
    """
    own = network.state_dict()
    norms = {module: layer for module, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    neutral = {}
    for module, norm in norms.items():
        if f"{module}.weight" not in keys:
            neutral |= {
                f"{module}.weight": torch.ones_like(norm.weight),
                f"{module}.running_mean": torch.zeros_like(norm.weight),
                f"{module}.running_var": torch.full_like(norm.weight, 1 - norm.eps),
            }
    neutral |= {f"{module}.num_batches_tracked": torch.tensor(0) for module in norms}
    mapped = {key: tensor for key, tensor in own.items() if key not in neutral}
    network.load_state_dict(translated(reference, mapped, keys) | neutral)
    network.eval()


def tflite_weights(path: Path) -> dict[str, Tensor]:
    """Return the float16 weights of a `.tflite` file as float32 tensors in PyTorch's layout.

    Keys are `<layer>.weight` and `<layer>.bias`, e.g. `FeatureExtractor/MobilenetV2/Conv.weight`. In the
    file, a tensor's name is the layer's name, followed by the operators that were folded into the layer.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    weights = {}
    for entry in interpreter.get_tensor_details():
        if entry["dtype"] is not np.float16:
            continue
        first = entry["name"].split(";")[0]
        layer = re.sub(r"/(Conv2D|depthwise|BiasAdd|BatchNorm/FusedBatchNormV3)$", "", first)
        values = interpreter.get_tensor(entry["index"]).astype(np.float32)
        if values.ndim == 1:
            weights[f"{layer}.bias"] = torch.from_numpy(values)
        else:  # (out, height, width, in); depthwise (1, height, width, channels)
            order = (3, 0, 1, 2) if layer.endswith("/depthwise") else (0, 3, 1, 2)
            weights[f"{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(values.transpose(order)))
    return weights


def ssd_keys(network: SsdMobileNetV2) -> dict[str, str]:
    """Return the published key of each weight and bias of the network's state dict."""
    extractor = "FeatureExtractor/MobilenetV2"
    layers = {("stem.conv", "stem.bn"): f"{extractor}/Conv", ("head.conv", "head.bn"): f"{extractor}/Conv_1"}
    for number, block in enumerate(network.blocks):
        scope = f"{extractor}/expanded_conv{f'_{number}' if number else ''}"
        roles = {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}
        layers |= {own: f"{scope}/{roles[own[0].rpartition('.')[2]]}" for own in _block_layers(block, number)}
    for number, (reduce, halve) in enumerate(network.extras):
        inner, out = reduce.conv.out_channels, halve.conv.out_channels
        for position, name in enumerate(
            (f"1_Conv2d_{number + 2}_1x1_{inner}", f"2_Conv2d_{number + 2}_3x3_s2_{out}")
        ):
            own = f"extras.{number}.{position}"
            layers[f"{own}.conv", f"{own}.bn"] = f"{extractor}/layer_19_{name}"
    for number in range(len(network.box_predictors)):
        for own, name in (("box", "BoxEncoding"), ("score", "Class")):
            module = f"{own}_predictors.{number}"
            layers[module, module] = f"BoxPredictor_{number}/{name}Predictor"
    return _keys({own: (f"{layer}.weight", f"{layer}.bias") for own, layer in layers.items()})


def centerface_keys(network: CenterFace) -> dict[str, str]:
    """Return the published key of each weight and bias of the network's state dict.

    The exporter folded batch norms, and named the convolutions' tensors by numbers that rise in the order of
    computation: the first convolution has weight 542 and bias 544, the next one weight 546.
    """
    folded = [("stem.conv", "stem.bn")]
    for number, block in enumerate(network.blocks):
        folded += _block_layers(block, number)
    folded += [
        (f"laterals.{number}.conv", f"laterals.{number}.bn")
        for number in reversed(range(len(network.laterals)))
    ]
    folded.append(("head.conv", "head.bn"))
    layers = {own: (str(542 + 4 * place), str(544 + 4 * place)) for place, own in enumerate(folded)}
    for own, name in {"heatmap": "pos", "size": "reg", "offset": "off", "landmarks": "lm"}.items():
        module = f"{own}_predictor"
        layers[module, module] = (f"head.{name}_conv.weight", f"head.{name}_conv.bias")
    keys = _keys(layers)
    for number in range(len(network.ups)):
        own, published = f"ups.{number}", f"neck.deconv_layers.{number}"
        keys[f"{own}.conv.weight"] = f"{published}.conv.weight"
        keys |= {f"{own}.bn.{entry}": f"{published}.bn.{entry}" for entry in NORM[:-1]}
    return keys


def _block_layers(block: InvertedResidual, number: int) -> list[tuple[str, str]]:
    """Return the convolutions of a block and their batch norms, in the order of computation."""
    roles = [("conv_pw", "bn1")] if block.has_expansion else []
    roles += [("conv_dw", "bn2"), ("conv_pwl", "bn3")]
    return [(f"blocks.{number}.{convolution}", f"blocks.{number}.{norm}") for convolution, norm in roles]


def _keys(layers: Mapping[tuple[str, str], tuple[str, str]]) -> dict[str, str]:
    """Return the published key of each weight and bias of the network.

    Each item of `layers` describes one layer. Its key names two modules of the network: the first has the
    layer's weight, and the second has the layer's bias. Its value has the published keys of this weight and
    of this bias.
    """
    keys = {}
    for (weight, bias), (published_weight, published_bias) in layers.items():
        keys |= {f"{weight}.weight": published_weight, f"{bias}.bias": published_bias}
    return keys


def onnx_weights(path: Path) -> dict[str, Tensor]:
    """Return the initializers of an ONNX file by name.

    The numbers of batches that batch norms have seen are left out.
    """
    weights = onnx.load(path).graph.initializer
    return {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in weights
        if not tensor.name.endswith(".num_batches_tracked")
    }
