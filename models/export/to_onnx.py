"""Export a network to an ONNX file, and check that the network and the file compute the same outputs."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.architectures.detectors.detector import Detector
from models.architectures.folded import fold_batch_norms
from models.architectures.image_classifier import ImageClassifier
from models.architectures.registry import Network
from models.blocks.padded_conv import PaddedConv2d
from models.errors import ModelsError
from models.onnx_tools.session import open_session
from models.onnx_tools.tidy import tidy
from models.zoo.card import File, ModelFile
from models.zoo.files import write_whole

OUTPUTS = ("logits", "embedding", "features")
OPSET = 20
TOLERANCE = 1e-4
"""Largest allowed difference between an output of the file and the same output of the network.

If the largest value of the output is over 1, the difference is divided by it. Differences arise because the
two sum in different orders.
"""


class ExportMismatchError(ModelsError):
    """The exported file and the network compute different outputs."""


class _Outputs(nn.Module):
    """A classifier wrapped so that one call returns its logits, its embedding and its last feature map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.network.forward_features(image)
        embedding = self.network.forward_head(features, pre_logits=True)
        if isinstance(self.network.classifier, nn.Linear):
            return self.network.classifier(embedding), embedding, features
        return self.network.forward_head(features), embedding, features


class _BlockClassifier(nn.Module):
    """A block wrapped as a classifier of grey images with two classes.

    It reshapes the image to the block's input and returns the first value of the block's output as both
    logits.
    """

    def __init__(self, block: nn.Module, channels: int, size: int) -> None:
        super().__init__()
        self.network = block  # `tidy` removes this prefix from the names of modules
        self._shape = (-1, channels, size, size)

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(image.reshape(self._shape))
        first = output.flatten(1)[:, :1]
        return torch.cat((first, first), 1)


def export(network: nn.Module, path: Path, samples: NDArray[np.float32]) -> None:
    """Write `network`, in evaluation mode, to the ONNX file `path`, atomically.

    The file's input is `image`, float32 (N, input_channels, height, width). The file of a classifier returns
    `logits` (N, classes), `embedding` and `features`. The file of a detector returns the detector's
    `outputs`. Batch norm and padding are folded into the convolutions. File and network are compared on
    `samples` (N, input_channels, height, width), and on the first sample alone. If their outputs differ by
    more than TOLERANCE, this raises ExportMismatchError and writes nothing.
    """
    model = to_onnx(network)
    content = model.SerializeToString()
    compare(content, network, samples)
    compare(content, network, samples[:1])
    write_whole(path, content)


def to_onnx(network: nn.Module) -> onnx.ModelProto:
    """Return the network in evaluation mode as a checked ONNX model with tensors named after modules.

    Raises ExportMismatchError if batch norm or padding could not be folded.
    """
    if isinstance(network, Detector):
        shape = (network.input_channels, *network.input_size)
        model = _convert(network, shape, network.outputs)
    else:
        size = network.input_size
        model = _convert(_Outputs(network), (network.input_channels, size, size), OUTPUTS)
    _require_folded(model.graph)
    return model


def block_to_onnx(block: nn.Module, channels: int, size: int, shape: tuple[int, int]) -> onnx.ModelProto:
    """Return a block in evaluation mode as a classifier that `weighin bench` can run.

    `image`, grey (N, 1, *shape), is reshaped to the block's input (N, channels, size, size), so
    `shape[0] * shape[1]` must be `channels * size²`. Both of the two `logits` (N, 2) are the first number
    of the block's output. The reshaping and the doubling together take about 2 µs.
    """
    return _convert(_BlockClassifier(block, channels, size), (1, *shape), ("logits",))


def _convert(network: nn.Module, shape: tuple[int, int, int], outputs: Sequence[str]) -> onnx.ModelProto:
    exported = network.network if isinstance(network, _Outputs | _BlockClassifier) else network
    training = exported.training
    ranks: dict[str, int] = {}
    if isinstance(exported, ImageClassifier) or isinstance(network, _BlockClassifier):
        # Folding here gives the same bits as the exporter's folding, which would trace each batch norm three
        # times. The exporter still folds detectors, whose constants would otherwise have other numbers than
        # in the included files. It also folds networks of other libraries, in which a batch norm need not
        # follow the convolution that is listed before it.
        for name, module in exported.named_modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                padded = isinstance(module, PaddedConv2d) and not module.even
                ranks[f"{name}.bias"] = 2 if padded else 1
        network = copy.deepcopy(network).eval()
        fold_batch_norms(network)
    try:
        with warnings.catch_warnings():
            # torch's exporter uses a name that torch itself deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                network.eval(),
                (torch.zeros(2, *shape),),
                dynamo=True,
                optimize=True,
                verbose=False,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                opset_version=OPSET,
            )
    finally:
        exported.train(training)
    if program is None:
        raise ExportMismatchError("torch.onnx.export: returned None")
    model = program.model_proto
    tidy(model)
    model.graph.initializer.sort(key=lambda tensor: ranks.get(tensor.name, 0))  # as the exporter orders them
    onnx.checker.check_model(model, full_check=True)
    return model


def _require_folded(graph: onnx.GraphProto) -> None:
    unfolded = sorted({node.op_type for node in graph.node} & {"BatchNormalization", "Pad"})
    if unfolded:
        raise ExportMismatchError(f"exported graph: {', '.join(unfolded)} not folded into convolutions")


def compare(model: bytes, network: nn.Module, samples: NDArray[np.float32]) -> float:
    """Return the largest difference between the outputs of an ONNX model and a network for `samples`.

    `samples`: float32 (N, channels, H, W). The network must be in evaluation mode. Differences are divided by
    the output's largest value if this value is over 1. Raises ExportMismatchError for a difference over
    TOLERANCE and for different shapes.
    """
    with torch.no_grad():
        expected = _expected(network, torch.from_numpy(samples))
    outputs = open_session(model).run(list(expected), {"image": samples})
    worst = 0.0
    for (name, tensor), output in zip(expected.items(), outputs, strict=True):
        reference = tensor.numpy()
        if reference.shape != output.shape:
            raise ExportMismatchError(
                f"{name}: shape {output.shape} (allowed: the network's {reference.shape})"
            )
        scale = max(1.0, float(np.abs(reference).max()))
        difference = float(np.abs(output - reference).max()) / scale
        if not difference <= TOLERANCE:
            raise ExportMismatchError(
                f"{name}: differs from the network's by {difference:.2e} (allowed: {TOLERANCE:.0e})"
            )
        worst = max(worst, difference)
    return worst


def _expected(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run the network on `images` and return its outputs by name."""
    if isinstance(network, Detector):
        return dict(zip(network.outputs, network(images), strict=True))
    features = network.forward_features(images)
    embedding = network.forward_head(features, pre_logits=True)
    return dict(zip(OUTPUTS, (network(images), embedding, features), strict=True))


def write_classifier(network: Network, path: Path) -> None:
    """Write the weights of the network's classifier to an .npz file.

    It has the arrays `weight` (classes, embedding) and `bias` (classes,), both float32.
    """
    layer = network.classifier
    arrays = {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}
    with tempfile.TemporaryFile() as file:
        np.savez(file, **arrays)
        file.seek(0)
        write_whole(path, file.read())


def plain_file(path: Path) -> File:
    """Return what a card states about a file: its name, its size in bytes and its SHA-256."""
    content = path.read_bytes()
    return File(name=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def model_file(path: Path) -> ModelFile:
    """Return what a card states about an ONNX file.

    This is its name, its size, its SHA-256, its opset, and the number of values in its initializers.
    """
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    elements = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    return ModelFile(**plain_file(path).model_dump(), opset=opset, initializer_elements=elements)
