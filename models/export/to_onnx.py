"""A network to an ONNX file, whose outputs are compared with the network's own every time."""

from __future__ import annotations

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

from models.architectures.registry import Network
from models.errors import ModelsError
from models.onnx_tools.session import open_session
from models.onnx_tools.tidy import tidy
from models.zoo.card import File, ModelFile
from models.zoo.files import write_whole

OUTPUTS = ("logits", "embedding", "features")
OPSET = 20
TOLERANCE = 1e-4
"""How far an output of the file may be from the network's, as a share of the output's largest value where
that is over 1. Both sum the same products in another order, and nothing else may differ."""


class ExportMismatchError(ModelsError):
    """The exported file computes something else than the network."""


class _Outputs(nn.Module):
    """The network with all outputs that a model of the zoo has, each computed once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.network.forward_features(image)
        embedding = self.network.forward_head(features, pre_logits=True)
        if isinstance(self.network.classifier, nn.Linear):
            return self.network.classifier(embedding), embedding, features
        return self.network.forward_head(features), embedding, features


class _Alone(nn.Module):
    """A block made a classifier of grey images, by views of tensors and two numbers of the block's output.

    The block is under the name that the graph's tidying takes off its modules.
    """

    def __init__(self, block: nn.Module, channels: int, size: int) -> None:
        super().__init__()
        self.network = block
        self._shape = (-1, channels, size, size)

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(image.reshape(self._shape))
        first = output.flatten(1)[:, :1]
        return torch.cat((first, first), 1)


def export(network: nn.Module, path: Path, samples: NDArray[np.float32]) -> None:
    """Write `network` to `path`, whole or not at all.

    The file takes `image`, float32 (N, input_channels, input_size, input_size), and offers `logits`
    (N, classes), `embedding` and `features`. Batch norm and padding are folded into the convolutions.
    Raises ExportMismatchError, and writes nothing, where its outputs for `samples` together, or for the first
    of them alone, are not the network's within TOLERANCE.
    """
    model = to_onnx(network)
    content = model.SerializeToString()
    compare(content, network, samples)
    compare(content, network, samples[:1])
    write_whole(path, content)


def to_onnx(network: nn.Module) -> onnx.ModelProto:
    """The network in evaluation mode as a checked ONNX model, its tensors named after its modules."""
    size = network.input_size
    model = _converted(_Outputs(network), (network.input_channels, size, size), OUTPUTS)
    _refuse_leftovers(model.graph)
    return model


def block_to_onnx(block: nn.Module, channels: int, size: int, shape: tuple[int, int]) -> onnx.ModelProto:
    """A block by itself in evaluation mode, as a classifier that `weighin bench` can run.

    The input map (N, channels, size, size) is a view of `image`, grey images (N, 1, *shape) of as many
    values; `logits` (N, 2) is the first value of the output map, twice, which takes some 2 µs.
    """
    return _converted(_Alone(block, channels, size), (1, *shape), ("logits",))


def _converted(
    network: _Outputs | _Alone, shape: tuple[int, int, int], outputs: Sequence[str]
) -> onnx.ModelProto:
    training = network.network.training
    try:
        with warnings.catch_warnings():
            # torch's exporter warns about its own use of a name that it deprecated.
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
        network.network.train(training)
    if program is None:
        raise ExportMismatchError("torch.onnx.export returned nothing")
    model = program.model_proto
    tidy(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _refuse_leftovers(graph: onnx.GraphProto) -> None:
    left = sorted({node.op_type for node in graph.node} & {"BatchNormalization", "Pad"})
    if left:
        raise ExportMismatchError(f"the export left {', '.join(left)} in the graph instead of folding it")


def compare(model: bytes, network: nn.Module, samples: NDArray[np.float32]) -> float:
    """The largest difference between the model's outputs and the network's for `samples` (N, 3, H, W).

    The network must be in evaluation mode.
    Differences are relative to the output's largest value where that is over 1.
    Raises ExportMismatchError where it is over TOLERANCE.
    """
    found = open_session(model).run(list(OUTPUTS), {"image": samples})
    with torch.no_grad():
        images = torch.from_numpy(samples)
        features = network.forward_features(images)
        expected = (network(images), network.forward_head(features, pre_logits=True), features)
    worst = 0.0
    for name, ours, theirs in zip(OUTPUTS, expected, found, strict=True):
        reference = ours.numpy()
        if reference.shape != theirs.shape:
            raise ExportMismatchError(f"{name} is {theirs.shape}, the network's {reference.shape}")
        scale = max(1.0, float(np.abs(reference).max()))
        difference = float(np.abs(theirs - reference).max()) / scale
        if not difference <= TOLERANCE:
            raise ExportMismatchError(f"{name} differs by {difference:.2e}, allowed is {TOLERANCE:.0e}")
        worst = max(worst, difference)
    return worst


def write_classifier(network: Network, path: Path) -> None:
    """Write the classifier's `weight` (classes, embedding) and `bias` (classes,), float32, as .npz."""
    layer = network.classifier
    arrays = {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}
    with tempfile.TemporaryFile() as file:
        np.savez(file, **arrays)
        file.seek(0)
        write_whole(path, file.read())


def plain_file(path: Path) -> File:
    """What a card says about a file."""
    content = path.read_bytes()
    return File(name=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def model_file(path: Path) -> ModelFile:
    """What a card says about an ONNX file."""
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    elements = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    return ModelFile(**plain_file(path).model_dump(), opset=opset, initializer_elements=elements)
