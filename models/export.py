"""A network to an ONNX file, whose outputs are compared with the network's own every time."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.architectures.registry import Network

OUTPUTS = ("logits", "embedding", "features")
OPSET = 20
TOLERANCE = 1e-4
"""How far an output of the file may be from the network's, as a share of the output's largest value where
that is over 1. Both sum the same products in another order, and nothing else may differ."""


class ExportMismatchError(Exception):
    """The exported file computes something else than the network."""


class _Outputs(nn.Module):
    """The network with all outputs that a model of the zoo has, each computed once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.network.forward_features(image)
        embedding = self.network.forward_head(features, pre_logits=True)
        return self.network.classifier(embedding), embedding, features


def export(network: nn.Module, path: Path, samples: NDArray[np.float32]) -> None:
    """Write `network` to `path`, whole or not at all.

    The file takes `image`, float32 (N, 3, input_size, input_size), and offers `logits` (N, classes),
    `embedding` and `features`. Batch norm and padding are folded into the convolutions.
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
    training = network.training
    try:
        with warnings.catch_warnings():
            # torch's exporter warns about its own use of a name that it deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                _Outputs(network).eval(),
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                optimize=True,
                verbose=False,
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                opset_version=OPSET,
            )
    finally:
        network.train(training)
    if program is None:
        raise ExportMismatchError("torch.onnx.export returned nothing")
    model = program.model_proto
    _pool_globally(model.graph)
    _rename(model.graph)
    _forget_origins(model)
    onnx.checker.check_model(model, full_check=True)
    _refuse_leftovers(model.graph)
    return model


def _pool_globally(graph: onnx.GraphProto) -> None:
    """Give the pooling the operator that runtimes keep in the convolutions' own memory layout.

    The exporter writes a mean over height and width and a reshape; ONNX Runtime would first reorder the
    whole feature map for that mean.
    """
    nodes = list(graph.node)
    mean = next((node for node in nodes if node.op_type == "ReduceMean"), None)
    if mean is None:
        return
    shape = next(node for node in nodes if node.op_type == "Reshape" and node.input[0] == mean.output[0])
    pool = onnx.helper.make_node("GlobalAveragePool", [mean.input[0]], ["pooled"], name="pool")
    flatten = onnx.helper.make_node("Flatten", ["pooled"], [shape.output[0]], name="flatten")
    replaced = {id(mean): pool, id(shape): flatten}
    kept = [replaced.get(id(node), node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in graph.node for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _rename(graph: onnx.GraphProto) -> None:
    """Name weights after their modules, and nodes and values after the weights that they use."""
    names = {"min_val_cast": "act.min", "max_val_cast": "act.max"}
    for tensor in graph.initializer:
        plain = names.get(tensor.name, tensor.name).removeprefix("network.")
        names[tensor.name] = plain.replace(".weight_bias", ".bias")
    outputs = {value.name for value in graph.output}
    for position, node in enumerate(graph.node):
        weight = next((names[name] for name in node.input if names.get(name, "").endswith(".weight")), None)
        previous = names.get(node.input[0], node.input[0])
        if weight is not None:
            node.name = weight.removesuffix(".weight")
        elif node.op_type == "Clip":
            node.name = f"{previous}.act"
        elif node.op_type == "Add":
            node.name = f"{previous}.add"
        elif not node.name:
            node.name = f"{node.op_type}.{position}"
        for output in node.output:
            if output not in outputs and output != "pooled":
                names[output] = node.name
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    del graph.value_info[:]


def _forget_origins(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about Python source lines: it is large and names local folders."""
    del model.metadata_props[:]
    del model.functions[:]
    model.graph.name = "network"
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""


def _refuse_leftovers(graph: onnx.GraphProto) -> None:
    left = sorted({node.op_type for node in graph.node} & {"BatchNormalization", "Pad"})
    if left:
        raise ExportMismatchError(f"the export left {', '.join(left)} in the graph instead of folding it")


def open_session(model: bytes | Path, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU for a model's bytes or file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that `path` is never seen half written, not even after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def run(
    session: ort.InferenceSession, images: Sequence[NDArray[np.float32]], output: str = "logits"
) -> NDArray[np.float32]:
    """One output for every image, each run alone as the service does: (len(images), ...)."""
    return np.concatenate([session.run([output], {"image": image})[0] for image in images])
