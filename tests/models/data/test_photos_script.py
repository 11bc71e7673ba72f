"""`fetch-photos` where it can do nothing, or has nothing to do; `make photos` is what tests the rest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "models/data/fetch-photos"
TOOLS = ("bash", "env", "basename", "id", "mkdir", "mktemp", "rm")


@pytest.fixture
def without_apt(tmp_path: Path) -> dict[str, str]:
    """An environment in which the script finds a shell and file tools, but no apt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return {"PATH": str(folder)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


def photographs() -> list[str]:
    """`<package>/<name>.jpg` of every photograph that the script's own lists promise."""
    listing = """
        eval "$(sed '/^\\[ \\$# -eq 1/,$d' "$1")"
        for package in "${packages[@]}"; do
            photographs "$package" | while read -r file; do echo "$package/$(name_of "$file")"; done
        done"""
    done = subprocess.run(
        ["bash", "-c", listing, "_", str(SCRIPT)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_missing_apt(without_apt: dict[str, str], tmp_path: Path) -> None:
    done = run(without_apt, str(tmp_path / "photos"))
    assert done.returncode == 1
    assert "apt-get: not found" in done.stderr
    assert not (tmp_path / "photos").exists()


@pytest.mark.slow
def test_existing_photographs_are_not_changed(without_apt: dict[str, str], tmp_path: Path) -> None:
    names = photographs()
    assert len(set(names)) == len(names) == 37
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")
    assert run(without_apt, str(tmp_path / "photos")).returncode == 0
    path.unlink()
    assert "apt-get: not found" in run(without_apt, str(tmp_path / "photos")).stderr


def test_missing_destination(without_apt: dict[str, str]) -> None:
    done = run(without_apt)
    assert (done.returncode, done.stderr) == (
        1,
        "models/data/fetch-photos: usage: models/data/fetch-photos DEST\n",
    )
