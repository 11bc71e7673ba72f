"""torchvision and timm, which others wrote: also beside a torch without CUDA, as it is installed here."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_named: list[torch.library.Library] = []
"""Keeps the operators' names alive: they vanish with the object that declared them."""


def torchvision_models() -> ModuleType:
    """`torchvision.models`. Raises ModuleNotFoundError where torchvision is not installed."""
    _import_torchvision()
    return importlib.import_module("torchvision.models")


def timm() -> ModuleType:
    """`timm`, which imports torchvision. Raises ModuleNotFoundError where one is not installed."""
    _import_torchvision()
    return importlib.import_module("timm")


def _import_torchvision() -> None:
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
