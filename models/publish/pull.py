"""A pretrained network of a hub into the zoo, by timm: its weights, its preprocessing, its labels."""

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
from models.publish.build import replaced_whole
from models.zoo.card import Card, Classifier, InputSpec, Source, write_card
from models.zoo.labels import read_labels

HUB = "timm/"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_named: list[torch.library.Library] = []
"""Keeps the operators' names alive: they vanish with the object that declared them."""


def timm() -> ModuleType:
    """`timm`, which imports torchvision. Raises ModuleNotFoundError where one is not installed."""
    import_torchvision()
    return importlib.import_module("timm")


def import_torchvision() -> None:
    """Import torchvision; where its compiled operators do not load, declare the two that it asks for at once.

    torchvision's wheel is linked to CUDA, so beside a CPU build of torch its library does not load; it goes
    on without, except that it describes the shapes of non-maximum suppression, which then has no declaration.
    No classifier needs that operator, and calling it still fails.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(operator + _SCHEMA)
        _named.append(library)
        importlib.import_module("torchvision")


class PulledNetwork(nn.Module):
    """A timm network under the names that every network here goes by."""

    def __init__(self, model: nn.Module, input_size: int, input_channels: int) -> None:
        super().__init__()
        self.model = model
        self.input_size = input_size
        self.input_channels = input_channels

    @property
    def classifier(self) -> nn.Module:
        """The layer that makes the logits; the model's own, so that its weights have one name."""
        layer: nn.Module = self.model.get_classifier()
        return layer

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the last feature map (N, channels, h, w)."""
        features: Tensor = self.model.forward_features(x)
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """The last feature map to logits (N, classes), or to the embedding before them."""
        head: Tensor = self.model.forward_head(features, pre_logits=pre_logits)
        return head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


@dataclass(frozen=True)
class Labels:
    """A label set's name, and the names of its classes where they do not come with the project."""

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
    """Put `timm/NAME` into the zoo `output` as `name`, by default NAME, and return its card.

    The weights come from timm's hub; with `folder` from config.json and model.safetensors there, as the hub
    would hand them out. The file's outputs are compared with the network's before anything is written, and
    its folder in the zoo is replaced whole or left as it was.
    Raises ValueError for what is no such name or cannot be served faithfully, and what timm raises where the
    hub cannot be reached or does not know the network.
    """
    if not network.startswith(HUB) or len(network) == len(HUB):
        raise ValueError(
            f"{network!r} names no network to pull; given as timm/NAME, e.g. timm/mobilenetv3_small_100"
        )
    wanted = network.removeprefix(HUB)
    model = _loaded(f"local-dir:{folder}" if folder else wanted).eval()
    facts: dict[str, Any] = dict(model.pretrained_cfg)
    spec = input_spec(timm().data.resolve_model_data_config(model))
    pulled = PulledNetwork(model, spec.height, spec.channels).eval()
    labels = label_set(facts, wanted, classes=int(model.num_classes))
    with replaced_whole(output / (name or wanted)) as fresh:
        try:
            export(pulled, fresh / "model.onnx", _samples(pulled))
        except ExportMismatchError as error:
            raise ValueError(f"{network} cannot be served faithfully: {error}") from error
        if isinstance(pulled.classifier, nn.Linear):
            write_classifier(pulled, fresh / "classifier.npz")
        if labels.own is not None:
            (fresh / "labels.txt").write_text("\n".join(labels.own) + "\n", encoding="utf-8")
        card = _card(name or wanted, pulled, spec, labels.name, facts, block, fresh)
        read_labels(card, fresh)
        write_card(fresh, card)
    return card


def _loaded(model: str) -> nn.Module:
    from safetensors import SafetensorError

    try:
        network: nn.Module = timm().create_model(model, pretrained=True)
    except SafetensorError as error:
        raise ValueError(f"the weights of {model} cannot be read: {error}") from error
    return network


def input_spec(config: dict[str, Any]) -> InputSpec:
    """timm's preprocessing as ours, which computes the same: shorter side, centre crop, mean and deviation.

    Raises ValueError for preprocessing that is no such thing.
    """
    channels, height, width = config["input_size"]
    if height != width:
        raise ValueError(f"it takes {height} x {width} images; only square ones are supported")
    if config["crop_mode"] != "center":
        raise ValueError(f"it crops {config['crop_mode']!r}; only 'center' is supported")
    if config["interpolation"] not in ("bilinear", "bicubic"):
        raise ValueError(
            f"it resizes {config['interpolation']!r}; only 'bilinear' and 'bicubic' are supported"
        )
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
    """What the network's classes are called: as its configuration says, else as ImageNet's of that number.

    Raises ValueError where neither has as many names.
    """
    given = facts.get("label_names")
    if given:
        if len(given) != classes:
            raise ValueError(f"its configuration names {len(given)} classes, the network has {classes}")
        described = facts.get("label_descriptions") or {}
        return Labels(f"{name}-labels"[:64], tuple(str(described.get(label, label)) for label in given))
    if classes == 1000:
        return Labels("imagenet-1k")
    subset = timm().data.infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        raise ValueError(f"its {classes} classes have no names: the configuration lists none")
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
