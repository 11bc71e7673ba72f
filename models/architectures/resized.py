"""Resizing of a network to the layer shapes that pruning left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

Shapes = Mapping[str, Sequence[int]]
"""Shape of each tensor of a state dict, by the tensor's key."""


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """Return the shape of each tensor of the network's state dict.

    With these shapes, `resize` can make the layers of another network of the same design equally large.
    """
    return {key: list(tensor.shape) for key, tensor in network.state_dict().items()}


def resize(network: nn.Module, shapes: Shapes) -> None:
    """Change the layers of `network` in place so that their weights have the given shapes.

    The new weights are zero. Call `load_state_dict` afterwards to set them. Depthwise convolutions stay
    depthwise; other convolutions keep their number of groups.
    Raises ValueError if the shapes belong to another network.
    """
    if shapes.keys() != network.state_dict().keys():
        differing = sorted(shapes.keys() ^ network.state_dict().keys())
        raise ValueError(f"shapes: of another network, keys differ: {', '.join(differing[:8])}")
    for name, module in network.named_modules():
        new_shapes = {
            key: shapes[f"{name}.{key}" if name else key] for key in module.state_dict() if "." not in key
        }
        if isinstance(module, nn.Conv2d):
            _resize_convolution(name, module, new_shapes)
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = new_shapes["weight"][0]
            _replace(module, new_shapes)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = new_shapes["weight"]
            _replace(module, new_shapes)


def _resize_convolution(name: str, module: nn.Conv2d, shapes: Shapes) -> None:
    outputs, inputs, *kernel = shapes["weight"]
    if tuple(kernel) != module.kernel_size:
        raise ValueError(f"shapes: kernel {tuple(kernel)} of {name} (allowed: {module.kernel_size})")
    if module.groups == module.in_channels and module.groups > 1:
        if inputs != 1:
            raise ValueError(
                f"shapes: {inputs} channels per group of {name}, which is depthwise (allowed: 1)"
            )
        module.groups = outputs
    module.in_channels, module.out_channels = inputs * module.groups, outputs
    _replace(module, shapes)


def _replace(module: nn.Module, shapes: Shapes) -> None:
    for key, shape in shapes.items():
        old = getattr(module, key)
        if isinstance(old, nn.Parameter):
            setattr(module, key, nn.Parameter(torch.zeros(tuple(shape), dtype=old.dtype)))
        else:
            setattr(module, key, torch.zeros(tuple(shape), dtype=old.dtype))
