"""Networks by name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.architectures.registry import Registry  # noqa: E402

pytestmark = pytest.mark.torch


def linear(classes: int, width_multiplier: float) -> torch.nn.Module:
    return torch.nn.Linear(round(8 * width_multiplier), classes)


def test_number_of_classes() -> None:
    registry = Registry()
    registry.add("linear", linear)
    assert registry.create("linear", classes=7).out_features == 7
    assert registry.create("linear", width_multiplier=0.5).in_features == 4
    assert list(registry) == ["linear"]


def test_duplicate_name() -> None:
    registry = Registry()
    registry.add("linear", linear)
    with pytest.raises(ValueError, match="'linear': already"):
        registry.add("linear", lambda classes, _width: torch.nn.Identity(classes))
    assert registry.create("linear").out_features == 1000


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"architecture 'x': unknown \(allowed: none"):
        Registry().create("x")
    registry = Registry()
    registry.add("linear", linear)
    with pytest.raises(ValueError, match="allowed: linear"):
        registry.create("x")
