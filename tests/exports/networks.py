"""The exports that are tried: each network with random weights, its file, and what its framework answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.architectures.initialise import randomise
from models.onnx_tools.session import open_session
from models.publish.pull import import_torchvision, timm
from service.own_models.add import Options

# Keras reads it once, when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

SIDE = 64
"""Height and width of the networks whose framework has no size of its own."""
NAMES = tuple(f"kind {number}" for number in range(10))


@dataclass(frozen=True)
class Export:
    """One exported network.

    `how`: the export and what it is added with, in words. `prepare`: the framework's own preprocessing of a
    picture, as the file takes it, (1, ...). `scores`: what the framework answers for such a tensor,
    (1, classes), before or after the activation as the file has it. `tolerance`: how far the file's scores
    may be from them, in their standard deviations. `prepared_by`: the preprocessing in words.
    """

    how: str
    file: Path
    options: Options
    prepare: Callable[[Path], NDArray[Any]]
    scores: Callable[[NDArray[Any]], NDArray[np.float32]]
    prepared_by: str
    tolerance: float = 1e-3


Make = Callable[[Path, Sequence[Path]], Export]
"""Writes an export to a folder; the photographs give the random weights their scale."""


def torchvision_current(folder: Path, photographs: Sequence[Path]) -> Export:
    """MobileNetV3 as torch exports by default: two files, a fixed batch of one."""
    network, prepare = _mobilenet_v3(photographs)
    file = folder / "mobilenet_v3_small.onnx"
    torch.onnx.export(network, (torch.rand(1, 3, 224, 224),), file, verbose=False)
    assert file.with_name(f"{file.name}.data").exists()
    return Export(
        "torchvision `mobilenet_v3_small`, `torch.onnx.export(model, image, file)`: two files",
        file, Options(preset="torchvision", labels="imagenet-1k"), prepare, _torch_scores(network),
        "`MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()`",
    )  # fmt: skip


def torchvision_legacy(folder: Path, photographs: Sequence[Path]) -> Export:
    """MobileNetV3 by the exporter that torch had before, with any number of images."""
    network, prepare = _mobilenet_v3(photographs)
    file = folder / "legacy.onnx"
    torch.onnx.export(
        network, (torch.rand(1, 3, 224, 224),), file, dynamo=False,
        input_names=["image"], dynamic_axes={"image": {0: "batch"}},
    )  # fmt: skip
    return Export(
        "torchvision `mobilenet_v3_small`, `dynamo=False`, `dynamic_axes`",
        file, Options(preset="torchvision", labels="imagenet-1k"), prepare, _torch_scores(network),
        "`MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()`",
    )  # fmt: skip


def opset_9(folder: Path, photographs: Sequence[Path]) -> Export:
    """MobileNetV2 with opset 9, its weights listed as inputs."""
    network, prepare = _torchvision("mobilenet_v2", photographs, width_mult=0.35)
    file = folder / "mobilenet_v2.onnx"
    torch.onnx.export(
        network, (torch.rand(1, 3, SIDE, SIDE),), file, dynamo=False, opset_version=9,
        keep_initializers_as_inputs=True,
    )  # fmt: skip
    return Export(
        "torchvision `mobilenet_v2`, `dynamo=False`, opset 9, `keep_initializers_as_inputs=True`",
        file, Options(preset="torchvision", labels=_labels_file(folder)), prepare, _torch_scores(network),
        _CLASSIFICATION,
    )  # fmt: skip


def half(folder: Path, photographs: Sequence[Path]) -> Export:
    """ShuffleNetV2 in half precision, its input too."""
    network, prepare = _torchvision("shufflenet_v2_x2_0", photographs)
    network.half()
    file = folder / "half.onnx"
    torch.onnx.export(network, (torch.rand(1, 3, SIDE, SIDE).half(),), file, verbose=False)
    return Export(
        "torchvision `shufflenet_v2_x2_0`, `model.half()`",
        file, Options(preset="torchvision", labels=_labels_file(folder)),
        lambda path: prepare(path).astype(np.float16), _torch_scores(network), _CLASSIFICATION, 1e-2,
    )  # fmt: skip


def int8(folder: Path, photographs: Sequence[Path]) -> Export:
    """MobileNetV2 quantized by ONNX Runtime to operators on integers."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    network, prepare = _torchvision("mobilenet_v2", photographs, width_mult=0.35)
    float_file, file = folder / "float" / "mobilenet_v2.onnx", folder / "int8.onnx"
    float_file.parent.mkdir()
    torch.onnx.export(
        network, (torch.rand(1, 3, SIDE, SIDE),), float_file, dynamo=False, input_names=["image"]
    )

    class Pictures(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self._left: Iterator[Path] = iter(photographs)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            path = next(self._left, None)
            return None if path is None else {"image": prepare(path)}

    quantize_static(float_file, file, Pictures(), quant_format=QuantFormat.QOperator)
    return Export(
        "torchvision `mobilenet_v2`, `dynamo=False`, `onnxruntime.quantization.quantize_static`, "
        "`QuantFormat.QOperator`",
        file, Options(preset="torchvision", labels=_labels_file(folder)), prepare,
        _file_scores(open_session(file)), _CLASSIFICATION, 0.0,
    )  # fmt: skip


def timm_ghostnet(folder: Path, photographs: Sequence[Path]) -> Export:
    """GhostNet with the `config.json` that timm writes, of another size and crop than timm's default."""
    library = timm()
    from timm.models._hub import save_config_for_hf

    own = {"input_size": (3, SIDE, SIDE), "crop_pct": 0.95}
    network = library.create_model("ghostnet_050", pretrained_cfg_overlay=own).eval()
    transform = library.data.create_transform(**library.data.resolve_data_config({}, model=network))
    prepare = _of_pil(lambda image: transform(image)[None])
    _give_weights(network, photographs, prepare, network.classifier)
    save_config_for_hf(network, folder / "config.json")
    file = folder / "ghostnet_050.onnx"
    torch.onnx.export(network, (torch.rand(1, 3, SIDE, SIDE),), file, verbose=False)
    return Export(
        "timm `ghostnet_050`, `torch.onnx.export(model, image, file)`, with timm's `config.json` "
        "beside the file",
        file, Options(), prepare, _torch_scores(network), "`timm.data.create_transform`",
    )  # fmt: skip


def hugging_face_mobilenet(folder: Path, photographs: Sequence[Path]) -> Export:
    """MobileNetV2 of transformers with a background class, saved with its processor; every side free."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification, MobileNetV2ImageProcessor

    names = {0: "background", **dict(enumerate(NAMES, 1))}
    torch.manual_seed(0)
    config = MobileNetV2Config(depth_multiplier=0.35, image_size=SIDE, num_labels=len(names))
    config.id2label, config.label2id = names, {name: number for number, name in names.items()}
    network = MobileNetV2ForImageClassification(config).eval()
    processor = MobileNetV2ImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": SIDE, "width": SIDE}
    )
    prepare = _of_pil(lambda image: processor(image, return_tensors="pt")["pixel_values"])
    _give_weights(network, photographs, prepare, network.classifier)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    file = _as_optimum_does(network, folder)
    return Export(
        "transformers `MobileNetV2ForImageClassification`, exported as by Optimum, with `config.json` "
        "and `preprocessor_config.json` beside the file",
        file, Options(name="hf-mobilenet"), prepare, _torch_scores(network), "`MobileNetV2ImageProcessor`",
    )  # fmt: skip


def hugging_face_vit(folder: Path, photographs: Sequence[Path]) -> Export:
    """A vision transformer of transformers, with the preset alone."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=SIDE,
        patch_size=16, num_labels=len(NAMES),
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    prepare = _of_pil(lambda image: processor(image, return_tensors="pt")["pixel_values"])
    _give_weights(network, photographs, prepare, network.classifier)
    file = _as_optimum_does(network, folder)
    options = Options(
        name="hf-vit", preset="hf", labels=_labels_file(folder), facts={"input.size": (SIDE, SIDE)}
    )
    return Export(
        "transformers `ViTForImageClassification`, exported as by Optimum, with no other file beside it",
        file, options, prepare, _torch_scores(network), "`ViTImageProcessor`",
    )  # fmt: skip


def keras_mobilenet(folder: Path, photographs: Sequence[Path]) -> Export:
    """MobileNetV2 of Keras, whose file takes NHWC and ends in a softmax."""
    import keras

    network = keras.applications.MobileNetV2(
        alpha=0.35, input_shape=(SIDE, SIDE, 3), weights=None, classes=len(NAMES)
    )

    def prepare(path: Path) -> NDArray[np.float32]:
        image = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(SIDE, SIDE)))
        batch: NDArray[np.float32] = keras.applications.mobilenet_v2.preprocess_input(image[None])
        return batch

    def scores(tensor: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            answer: NDArray[np.float32] = keras.ops.convert_to_numpy(network(tensor, training=False))
        return answer

    _give_keras_weights(network, np.concatenate([prepare(path) for path in photographs]))
    file = folder / "keras_mobilenet.onnx"
    network.export(file, format="onnx", verbose=False)
    return Export(
        "Keras 3 `MobileNetV2` with its softmax, backend torch, `model.export(file, format=\"onnx\")`",
        file, Options(preset="keras-tf", labels=_labels_file(folder)), prepare, scores,
        "`load_img` and `preprocess_input`",
    )  # fmt: skip


EXPORTS: dict[str, Make] = {
    "torchvision, two files": torchvision_current,
    "torchvision, legacy exporter": torchvision_legacy,
    "opset 9, weights as inputs": opset_9,
    "fp16": half,
    "int8, QOperator": int8,
    "timm": timm_ghostnet,
    "Hugging Face, with its processor": hugging_face_mobilenet,
    "Hugging Face, preset": hugging_face_vit,
    "Keras": keras_mobilenet,
}
"""Each export by its name."""

_CLASSIFICATION = f"`ImageClassification(crop_size={SIDE}, resize_size={SIDE * 256 // 224})`"


def _mobilenet_v3(photographs: Sequence[Path]) -> tuple[nn.Module, Callable[[Path], NDArray[np.float32]]]:
    """Return torchvision's network with random weights, and the preprocessing of its own weights."""
    import_torchvision()
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    network = mobilenet_v3_small().eval()
    transform = MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()
    prepare = _of_pil(lambda image: transform(image)[None])
    _give_weights(network, photographs, prepare, network.classifier[-1])
    return network, prepare


def _torchvision(
    name: str, photographs: Sequence[Path], **options: Any
) -> tuple[nn.Module, Callable[[Path], NDArray[np.float32]]]:
    """Return a network of torchvision for SIDE x SIDE pixels with random weights, and its preprocessing."""
    import_torchvision()
    from torchvision import models
    from torchvision.transforms._presets import ImageClassification

    network = getattr(models, name)(num_classes=len(NAMES), **options).eval()
    transform = ImageClassification(crop_size=SIDE, resize_size=SIDE * 256 // 224)
    prepare = _of_pil(lambda image: transform(image)[None])
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    _give_weights(network, photographs, prepare, last)
    return network, prepare


def _of_pil(transform: Callable[[Image.Image], Tensor]) -> Callable[[Path], NDArray[np.float32]]:
    """Return a preprocessing of a file from one of a Pillow image."""

    def prepare(path: Path) -> NDArray[np.float32]:
        with Image.open(path) as image, torch.no_grad():
            return transform(image.convert("RGB")).numpy().astype(np.float32)

    return prepare


@torch.no_grad()
def _give_weights(
    network: nn.Module, photographs: Sequence[Path], prepare: Callable[[Path], NDArray[Any]], last: nn.Linear
) -> None:
    """Set random weights, and those of the last layer so that it tells the photographs apart."""
    images = torch.from_numpy(np.concatenate([prepare(path) for path in photographs]))
    randomise(network, 0, images, shift=1.0)
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for across, down in _SHIFTS:
        network(torch.roll(images, (across, down), (3, 2)))
    hook.remove()
    weight, bias = _last_layer(torch.cat(seen).numpy(), last.out_features)
    last.weight.copy_(torch.from_numpy(weight))
    last.bias.copy_(torch.from_numpy(bias))


@torch.no_grad()
def _give_keras_weights(network: Any, images: NDArray[np.float32]) -> None:
    """Set weights as `_give_weights` does."""
    import keras

    random = np.random.default_rng(0)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in network.layers:
        if layer not in norms and layer.weights:
            kernel, *rest = layer.get_weights()
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = np.prod(kernel.shape[:-2] if depthwise else kernel.shape[:-1])
            layer.set_weights([random.normal(0, np.sqrt(2 / fan_in), kernel.shape), *rest])
    for norm in norms:
        gamma, beta, *rest = norm.get_weights()
        norm.set_weights([random.uniform(0.7, 1.3, gamma.shape), random.normal(1, 0.2, beta.shape), *rest])
        norm.momentum = 0.0
    network(images, training=True)
    for norm in norms:
        gamma, beta, mean, variance = norm.get_weights()
        mean = mean + 0.2 * np.sqrt(variance) * random.normal(0, 1, mean.shape)
        norm.set_weights([gamma, beta, mean, variance * random.uniform(0.7, 1.4, variance.shape)])
    before_last = keras.Model(network.input, network.layers[-2].output)
    seen = [before_last(np.roll(images, shift, (2, 1)), training=False).numpy() for shift in _SHIFTS]
    weight, bias = _last_layer(np.concatenate(seen), len(NAMES))
    network.layers[-1].set_weights([weight.T, bias])


_SHIFTS = [(across, down) for across in (-1, 0, 1) for down in (-1, 0, 1)]
"""By how many pixels the photographs are shifted when the last layer is fitted."""


def _last_layer(seen: NDArray[np.float32], classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight and bias that give each photograph random scores, and a class of its own the highest.

    `seen`: what the layer gets for all photographs at each of _SHIFTS. With a random last layer, all
    photographs would be of one class, or small differences in their pixels would decide. By ridge regression.
    """
    count = len(seen) // len(_SHIFTS)
    wanted = np.random.default_rng(0).normal(0, 1, (count, classes))
    wanted[np.arange(count), np.arange(1, count + 1) * (classes - 1) // count] += 4
    mean, centre = seen.mean(0, dtype=np.float64), wanted.mean(0)
    centred = seen - mean
    products = centred @ centred.T
    ridge = 0.1 * np.trace(products) / len(seen) * np.eye(len(seen))
    weight = (centred.T @ np.linalg.solve(products + ridge, np.tile(wanted - centre, (len(_SHIFTS), 1)))).T
    return weight, centre - weight @ mean


def _as_optimum_does(network: nn.Module, folder: Path) -> Path:
    """Export a network of transformers with the names and free sides that Optimum gives; return the file."""
    sides = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}
    file = folder / "model.onnx"
    torch.onnx.export(
        network, (torch.rand(2, 3, SIDE, SIDE),), file, dynamo=False, input_names=["pixel_values"],
        output_names=["logits"], dynamic_axes={"pixel_values": sides, "logits": {0: "batch_size"}},
    )  # fmt: skip
    return file


def _labels_file(folder: Path) -> Path:
    path = folder / "ten names.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


def _logits(answer: Any) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer.logits


def _torch_scores(network: nn.Module) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    def scores(tensor: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            return _logits(network(torch.from_numpy(tensor))).float().numpy()

    return scores


def _file_scores(session: ort.InferenceSession) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    def scores(tensor: NDArray[Any]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: tensor})[0]
        return answer

    return scores
