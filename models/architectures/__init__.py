"""Network architectures, one file per family, and `ARCHITECTURES`, the registry by name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from models.architectures.efficientnet_lite import VARIANTS, EfficientNetLite, Variant
from models.architectures.ghostnet import ghostnet
from models.architectures.mnasnet import mnasnet
from models.architectures.mobilenet_v1 import mobilenet_v1
from models.architectures.mobilenet_v2 import mobilenet_v2
from models.architectures.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from models.architectures.registry import Registry
from models.architectures.shufflenet_v2 import shufflenet_v2
from models.architectures.squeezenet import SqueezeNet


def _efficientnet_lite(variant: Variant, classes: int, width_multiplier: float) -> EfficientNetLite:
    return EfficientNetLite(
        replace(variant, width_multiplier=variant.width_multiplier * width_multiplier), classes
    )


ARCHITECTURES = Registry()
ARCHITECTURES.add("mobilenet-v1", mobilenet_v1)
ARCHITECTURES.add("mobilenet-v2", mobilenet_v2)
ARCHITECTURES.add("mobilenet-v3-small", mobilenet_v3_small)
ARCHITECTURES.add("mobilenet-v3-large", mobilenet_v3_large)
ARCHITECTURES.add("shufflenet-v2", shufflenet_v2)
ARCHITECTURES.add("squeezenet", SqueezeNet)
ARCHITECTURES.add("ghostnet", ghostnet)
ARCHITECTURES.add("mnasnet", mnasnet)
for _name, _variant in VARIANTS.items():
    ARCHITECTURES.add(_name, partial(_efficientnet_lite, _variant))
