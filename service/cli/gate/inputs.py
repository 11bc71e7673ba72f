"""The files and folders that a gate reads. No output of the gate may replace one of these files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from service.cli.gate.subjects import Role, find
from service.errors import InvalidParameter, WeighinError
from service.evaluation.readers.paths import has_picture_suffix
from service.inference.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Options of `weighin gate` that name files and folders; the gate's `Request` adds the other options."""

    base: str
    new: str
    data: Path | None = None
    mapping: Path | None = None
    images: Path | None = None

    def check_output(self, option: str, path: Path, registry: Callable[[], Registry]) -> None:
        """Raise InvalidParameter if the output `path` of `option` would replace a file that the gate reads.

        If a network or --data is a folder, every file in this folder counts as read. If --data is a file,
        every picture in the folder of this file counts. Every picture in --images counts, too. Links are
        followed.
        """
        real = Path(os.path.realpath(path))
        if not real.is_file():
            return
        for name, read in self._read(registry):
            if read.is_file() and read.samefile(real):
                raise InvalidParameter(
                    f"{option} {path}: is an input of this command (allowed: another file)"
                )
            if read.is_dir() and _holds(read, real):
                raise InvalidParameter(f"{option} {path}: is a file of {name} (allowed: another file)")
        for folder in self._folders_of_pictures():
            if has_picture_suffix(real.name) and real.is_relative_to(os.path.realpath(folder)):
                raise InvalidParameter(f"{option} {path}: is a picture of --data (allowed: another file)")

    def _read(self, registry: Callable[[], Registry]) -> Iterator[tuple[str, Path]]:
        """Yield each file and folder that the gate reads, with the option that names it."""
        roles: tuple[Role, ...] = get_args(Role)
        for role, given in zip(roles, (self.base, self.new), strict=True):
            try:
                source = find(role, given, registry)
            except (WeighinError, OSError):  # the gate itself reports this error
                continue
            if source is not None:
                yield f"--{role}", source.path
        for name, path in (("--data", self.data), ("--mapping", self.mapping)):
            if path is not None:
                yield name, path

    def _folders_of_pictures(self) -> Iterator[Path]:
        if self.images is not None:
            yield self.images
        if self.data is not None:
            yield self.data if self.data.is_dir() else self.data.parent


def _holds(folder: Path, file: Path) -> bool:
    """Return whether a file is in a folder, or a link directly in the folder leads to the file."""
    return file.is_relative_to(os.path.realpath(folder)) or any(
        each.is_file() and each.samefile(file) for each in folder.iterdir()
    )
