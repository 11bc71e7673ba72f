"""Pull a pretrained network from a hub into the zoo with timm: weights, preprocessing and labels."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.cost.profiling import profile
from models.export.to_onnx import ExportMismatchError, export, model_file, plain_file, write_classifier
from models.publish.build import replace_folder
from models.zoo.card import Card, Classifier, InputSpec, Source, write_card
from models.zoo.labels import read_labels

HUB = "timm/"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declarations: list[torch.library.Library] = []
"""Objects that must be kept, because the operators declared with them disappear when they are deleted."""


def timm() -> ModuleType:
    """Import torchvision, then import timm and return it.

    Raises ModuleNotFoundError if one of them is not installed.
    """
    import_torchvision()
    return importlib.import_module("timm")


def import_torchvision() -> None:
    """Import torchvision, even if its compiled operators do not load beside a CPU build of torch.

    torchvision's wheel is linked to CUDA. Without CUDA's library, torchvision's operators of non-maximum
    suppression are not declared. The import then fails, but only because torchvision registers shape
    functions for them. In this case, this function declares the operators and imports torchvision again. No
    classifier needs these operators, and calling them still fails.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(operator + _SCHEMA)
        _declarations.append(library)
        importlib.import_module("torchvision")


class PulledNetwork(nn.Module):
    """A timm network with the interface of this project's networks."""

    def __init__(self, model: nn.Module, input_size: int, input_channels: int) -> None:
        super().__init__()
        self.model = model
        self.input_size = input_size
        self.input_channels = input_channels

    @property
    def classifier(self) -> nn.Module:
        """Return the classification layer.

        It is a property, because an attribute would register the layer's weights a second time.
        """
        layer: nn.Module = self.model.get_classifier()
        return layer

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, channels, h, w) for images (N, channels, height, width)."""
        features: Tensor = self.model.forward_features(x)
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, classes) for the last feature map.

        If `pre_logits` is true, return the embedding instead.
        """
        head: Tensor = self.model.forward_head(features, pre_logits=pre_logits)
        return head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


@dataclass(frozen=True)
class Labels:
    """A label set. `own` has its class names.

    If the label set is one that this project has already, `own` is None.
    """

    name: str
    own: tuple[str, ...] | None = None


def pull(
    network: str,
    output: Path,
    *,
    name: str | None = None,
    block: str = "unstated",
    folder: Path | None = None,
) -> Card:
    """Put the network `timm/NAME` into the zoo `output` and return its card.

    The model's name in the zoo is `name`. By default it is NAME.

    The weights come from timm's hub, or from the hub's files config.json and model.safetensors in `folder`.
    The exported file is compared with the network before the folder in the zoo is replaced atomically. Raises
    ValueError for a network that is not named `timm/NAME`, for unreadable weights, for unsupported
    preprocessing or labels, and if file and network differ. Raises the errors of timm for an unknown network
    or an unreachable hub.
    """
    if not network.startswith(HUB) or len(network) == len(HUB):
        raise ValueError(
            f"network {network!r}: unknown hub (allowed: timm/NAME, e.g. timm/mobilenetv3_small_100)"
        )
    hub_name = network.removeprefix(HUB)
    model = _load(f"local-dir:{folder}" if folder else hub_name).eval()
    facts: dict[str, Any] = dict(model.pretrained_cfg)
    spec = input_spec(timm().data.resolve_model_data_config(model))
    pulled = PulledNetwork(model, spec.height, spec.channels).eval()
    labels = label_set(facts, hub_name, classes=int(model.num_classes))
    with replace_folder(output / (name or hub_name)) as target:
        try:
            export(pulled, target / "model.onnx", _samples(pulled))
        except ExportMismatchError as error:
            raise ValueError(f"{network}: exported file differs from the network: {error}") from error
        if isinstance(pulled.classifier, nn.Linear):
            write_classifier(pulled, target / "classifier.npz")
        if labels.own is not None:
            (target / "labels.txt").write_text("\n".join(labels.own) + "\n", encoding="utf-8")
        card = _card(name or hub_name, pulled, spec, labels.name, facts, block, target)
        read_labels(card, target)
        write_card(target, card)
    return card


def _load(model: str) -> nn.Module:
    from safetensors import SafetensorError

    try:
        network: nn.Module = timm().create_model(model, pretrained=True)
    except SafetensorError as error:
        raise ValueError(f"{model}: unreadable weights: {error}") from error
    return network


def input_spec(config: dict[str, Any]) -> InputSpec:
    """Convert timm's data configuration to an InputSpec: resize, centre crop, mean, standard deviation.

    Raises ValueError for preprocessing that InputSpec cannot express.
    """
    channels, height, width = config["input_size"]
    if height != width:
        raise ValueError(f"input_size: {height} x {width} (allowed: square)")
    if config["crop_mode"] != "center":
        raise ValueError(f"crop_mode: {config['crop_mode']!r} (allowed: 'center')")
    if config["interpolation"] not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation: {config['interpolation']!r} (allowed: 'bilinear', 'bicubic')")
    return InputSpec(
        height=height,
        width=width,
        channels=channels,
        resize=math.floor(height / config["crop_pct"]),
        mean=tuple(255 * value for value in config["mean"]),
        std=tuple(255 * value for value in config["std"]),
        interpolation=config["interpolation"],
    )


def label_set(facts: dict[str, Any], name: str, classes: int) -> Labels:
    """Return the label set of a network with `classes` classes.

    `facts` is the hub's configuration of the network. If it states class names, they are the label set. If it
    states none, the label set is that of the ImageNet variant with `classes` classes. Raises ValueError if
    the number of names in the configuration is not `classes`, or if there is no such ImageNet variant.
    """
    label_names = facts.get("label_names")
    if label_names:
        if len(label_names) != classes:
            raise ValueError(
                f"label_names: {len(label_names)} names (allowed: {classes}, the number of classes)"
            )
        descriptions = facts.get("label_descriptions") or {}
        return Labels(
            f"{name}-labels"[:64], tuple(str(descriptions.get(label, label)) for label in label_names)
        )
    if classes == 1000:
        return Labels("imagenet-1k")
    subset = timm().data.infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        raise ValueError(f"label_names: missing for {classes} classes that are no ImageNet variant")
    info = timm().data.ImageNetInfo(subset)
    return Labels(str(subset), tuple(info.index_to_description(index) for index in range(classes)))


def _samples(network: PulledNetwork) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (2, network.input_channels, network.input_size, network.input_size)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _card(
    name: str,
    network: PulledNetwork,
    spec: InputSpec,
    labels: str,
    facts: dict[str, Any],
    block: str,
    folder: Path,
) -> Card:
    cost = profile(network, network.input_size, network.input_channels)
    with torch.no_grad():
        features = network.forward_features(torch.from_numpy(_samples(network)[:1]))
        embedding = network.forward_head(features, pre_logits=True)
        logits = network.forward_head(features)
    classifier = folder / "classifier.npz"
    weights = facts.get("hf_hub_id") or facts.get("url") or "a local folder"
    return Card(
        name=name,
        labels=labels,
        classes=logits.shape[1],
        architecture=f"timm {facts.get('architecture') or name}",
        block=block,
        precision="fp32",
        input=spec,
        outputs={
            "logits": tuple(logits.shape[1:]),
            "embedding": tuple(embedding.shape[1:]),
            "features": tuple(features.shape[1:]),
        },
        parameters=cost.parameters,
        macs=cost.macs,
        file=model_file(folder / "model.onnx"),
        classifier=Classifier(model=name, file=plain_file(classifier)) if classifier.exists() else None,
        source=Source(
            weights=f"{weights} by timm {timm().__version__}",
            licence=facts.get("license") or "not stated; see the network's page on the hub",
        ),
        notes=("pulled from a hub; its accuracy was not measured by this project",),
    )
