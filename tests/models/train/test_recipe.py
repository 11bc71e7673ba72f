"""The recipe file: valid as committed; errors name the key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.train.recipe import RECIPE, read_config


def test_the_committed_recipe_is_valid() -> None:
    config = read_config()
    assert config.epochs > config.optimizer.warm_up_epochs
    assert 0 < config.augmentation.erase_smallest < config.augmentation.erase_largest


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("batch_size", "batch_size = 0", r"batch_size: .*greater than 0.* \(given: 0\)"),
        ("batch_size", "batch = 256", "batch: Extra inputs are not permitted"),
        ("mirror", "mirror = 1.5", r"augmentation.mirror: .*less than 1"),
        ("mirror", "mirror = ", "not TOML"),
    ],
)
def test_invalid_recipe(tmp_path: Path, key: str, change: str, message: str) -> None:
    text, replaced = re.subn(rf"^{key} = .*$", change, RECIPE.read_text(), flags=re.MULTILINE)
    assert replaced == 1
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(path)
