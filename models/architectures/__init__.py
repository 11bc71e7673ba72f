"""Networks composed of blocks: one file per family, and `ARCHITECTURES`, which knows them by name."""

from __future__ import annotations

from functools import partial

from models.architectures.efficientnet_lite import VARIANTS, EfficientNetLite
from models.architectures.registry import Registry

ARCHITECTURES = Registry()
for _name, _variant in VARIANTS.items():
    ARCHITECTURES.add(_name, partial(EfficientNetLite, _variant))
