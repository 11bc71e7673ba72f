"""Networks by name."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.architectures.registry import Registry  # noqa: E402

pytestmark = pytest.mark.torch


def linear(classes: int, width_multiplier: float) -> torch.nn.Module:
    return torch.nn.Linear(round(8 * width_multiplier), classes)


def test_a_network_is_made_for_so_many_classes() -> None:
    registry = Registry()
    registry.add("linear", linear)
    assert registry.create("linear", classes=7).out_features == 7
    assert registry.create("linear", width_multiplier=0.5).in_features == 4
    assert list(registry) == ["linear"]


def test_a_name_is_given_once() -> None:
    registry = Registry()
    registry.add("linear", linear)
    with pytest.raises(ValueError, match="'linear' already"):
        registry.add("linear", lambda classes, _width: torch.nn.Identity(classes))
    assert registry.create("linear").out_features == 1000


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no architecture named 'x'; known: none"):
        Registry().create("x")
    registry = Registry()
    registry.add("linear", linear)
    with pytest.raises(ValueError, match="known: linear"):
        registry.create("x")
