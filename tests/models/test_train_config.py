"""The recipe's file: valid as committed, and refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.train_config import RECIPE, read_config


def test_the_committed_recipe_is_valid() -> None:
    config = read_config()
    assert config.epochs > config.optimizer.warm_up_epochs
    assert 0 < config.augmentation.erase_smallest < config.augmentation.erase_largest


@pytest.mark.parametrize(
    ("line", "change", "complaint"),
    [
        ("batch_size = 256", "batch_size = 0", r"batch_size: .*greater than 0.* \(given: 0\)"),
        ("batch_size = 256", "batch = 256", "batch: Extra inputs are not permitted"),
        ("mirror = 0.5", "mirror = 1.5", r"augmentation.mirror: .*less than 1"),
        ("mirror = 0.5", "mirror = ", "is no TOML"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, line: str, change: str, complaint: str) -> None:
    text = RECIPE.read_text()
    assert line in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(line, change))
    with pytest.raises(ValueError, match=complaint):
        read_config(path)
