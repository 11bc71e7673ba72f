"""The same networks as others wrote them, and how their parts correspond to ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.publish.pull import import_torchvision, timm


@dataclass(frozen=True)
class Reference:
    """`make` builds theirs; `stages` pairs the names of our modules with those of theirs."""

    make: Callable[[], torch.nn.Module]
    stages: tuple[tuple[str, str], ...]


def _blocks(theirs: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"blocks.{index}", name) for index, name in enumerate(theirs))


def _nested(prefix: str, sizes: tuple[int, ...], first: int = 0) -> list[str]:
    return [f"{prefix}{s}.{b}" for s, size in enumerate(sizes, first) for b in range(size)]


def _torchvision(name: str, width: float = 1.0) -> Callable[[], torch.nn.Module]:
    options = {} if width == 1.0 else {"width_mult": width}

    def make() -> torch.nn.Module:
        import_torchvision()
        network: torch.nn.Module = getattr(importlib.import_module("torchvision.models"), name)(**options)
        return network

    return make


def _timm(name: str) -> Callable[[], torch.nn.Module]:
    return lambda: timm().create_model(name)


REFERENCES = {
    "mobilenet-v1": Reference(
        _timm("mobilenetv1_100"), (("stem", "bn1"), *_blocks(_nested("blocks.", (1, 2, 2, 6, 2))))
    ),
    "mobilenet-v2": Reference(
        _torchvision("mobilenet_v2"),
        (("stem", "features.0"), *_blocks([f"features.{i}" for i in range(1, 18)]), ("head", "features.18")),
    ),
    "mobilenet-v3-small": Reference(
        _torchvision("mobilenet_v3_small"),
        (
            ("stem", "features.0"),
            *_blocks([f"features.{i}" for i in range(1, 12)]),
            ("head", "features.12"),
            ("hidden", "classifier.1"),
        ),
    ),
    "mobilenet-v3-large": Reference(
        _torchvision("mobilenet_v3_large"),
        (
            ("stem", "features.0"),
            *_blocks([f"features.{i}" for i in range(1, 16)]),
            ("head", "features.16"),
            ("hidden", "classifier.1"),
        ),
    ),
    "shufflenet-v2": Reference(
        _torchvision("shufflenet_v2_x1_0"),
        (("stem", "maxpool"), *_blocks(_nested("stage", (4, 8, 4), first=2)), ("head", "conv5")),
    ),
    "squeezenet": Reference(
        _torchvision("squeezenet1_1"),
        (("stem", "features.1"), *_blocks([f"features.{i}" for i in range(2, 13)])),
    ),
    "ghostnet": Reference(
        _timm("ghostnet_100"),
        (
            ("stem", "act1"),
            *_blocks(_nested("blocks.", (1, 1, 1, 1, 1, 1, 5, 1, 4))),
            ("head", "blocks.9"),
            ("hidden", "flatten"),
        ),
    ),
    "mnasnet": Reference(
        _torchvision("mnasnet1_0"),
        (
            ("stem", "layers.2"),
            ("blocks.0", "layers.7"),
            *[
                (f"blocks.{1 + index}", name)
                for index, name in enumerate(_nested("layers.", (3, 3, 3, 2, 4, 1), first=8))
            ],
            ("head", "layers.16"),
        ),
    ),
    **{
        f"efficientnet-lite{digit}": Reference(
            _timm(f"tf_efficientnet_lite{digit}"),
            (("stem", "bn1"), *_blocks(_nested("blocks.", repeats)), ("head", "bn2")),
        )
        for digit, repeats in enumerate(((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1)))
    },
    "mobilenet-v2 at half width": Reference(_torchvision("mobilenet_v2", 0.5), (("blocks", "features.17"),)),
    "mobilenet-v3-large at 0.75 of the width": Reference(
        _torchvision("mobilenet_v3_large", 0.75), (("blocks", "features.15"),)
    ),
    "mnasnet at half width": Reference(_torchvision("mnasnet0_5"), (("blocks", "layers.13"),)),
}


def copy_over(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    """Load `theirs` into `ours`, entry by entry.

    Both list their layers in the order in which they compute; the entries must match in kind (weight, bias,
    running mean, ...) and shape, except that a pointwise convolution may be a linear layer. That the right
    entry went to the right place is what the comparison of all stages shows.
    """
    sources = theirs.state_dict()
    targets = ours.state_dict()
    assert len(sources) == len(targets)
    mapped = {}
    for (source, value), (target, old) in zip(sources.items(), targets.items(), strict=True):
        assert source.rpartition(".")[2] == target.rpartition(".")[2], (source, target)
        if value.ndim == 4 and old.ndim == 2 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        assert value.shape == old.shape, (source, target)
        mapped[target] = value
    ours.load_state_dict(mapped)


def outputs(
    network: torch.nn.Module, stages: list[str], images: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What each named module and the network give for `images`, in evaluation mode."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        # A copy, since activations of theirs may write over it.
        return lambda _module, _inputs, output: seen.__setitem__(name, output.detach().clone())

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in stages]
    try:
        with torch.no_grad():
            logits = network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[name] for name in stages], logits
