"""Replacing a model's folder by renames, as `weighin add` does."""

from __future__ import annotations

import shutil
from pathlib import Path

from models.zoo.card import read_card
from tests.conftest import make_tiny_model


def replace_model(folder: Path, *, seed: int, labels: str = "tiny-10") -> str:
    """Put another tiny model of the same name in the folder's place; return the SHA-256 of its file."""
    aside = make_tiny_model(folder.parent / f".{folder.name}.tmp", folder.name, seed=seed, labels=labels)
    old = folder.with_name(f".{folder.name}.old")
    folder.rename(old)
    aside.rename(folder)
    aside.parent.rmdir()
    shutil.rmtree(old)
    return read_card(folder).file.sha256
