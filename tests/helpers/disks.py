"""Small file systems that tests can fill."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def needs_root(*commands: str) -> None:
    """Fail, instead of skipping, unless run as root, which these faults need (CI is root)."""
    assert os.geteuid() == 0, "this test needs root: run `sudo make test-faults`"
    for command in commands:
        assert shutil.which(command), f"this test needs `{command}` (util-linux)"


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    """Mount a small file system."""
    needs_root("mount", "umount")
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    assert made.returncode == 0, f"this test needs to mount a small tmpfs: {made.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Fill the file system."""
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"\0" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
