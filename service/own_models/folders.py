"""Add, replace and remove model folders of a zoo atomically, without a lock."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from models.zoo.files import holds_network
from service.errors import ModelExists, StorageUnavailable, UnknownModel, error_words

MARKER = ".shared.json"
"""Name of the marker, a file in each model folder that is shared through a database.

The marker has the digest of the folder's files, and says whether the database has already stored them."""

_STALE_S = 3600
"""Age in seconds from which a temporary folder counts as left behind by a killed process."""
_AT_CWD, _EXCHANGE = -100, 2


def is_shared(folder: Path) -> bool:
    """Return whether a model's folder has a marker, which means that a database determines its content."""
    return os.path.lexists(folder / MARKER)


def check_free(to: Path, name: str, *, replace: bool) -> None:
    """Raise ModelExists if the zoo folder `to` has a model `name` that may not be replaced."""
    if os.path.lexists(to / name) and not replace:
        raise ModelExists(f"model '{name}': exists (allowed: another --name, or --replace)")


@contextlib.contextmanager
def workplace(to: Path, name: str, *, prefix: str = "") -> Iterator[Path]:
    """Provide an empty folder `to/.NAME.tmp-.../NAME` for a model's files, and remove it at the end.

    `prefix`: beginning of the temporary folder's name, instead of `.NAME.tmp-`. Raises StorageUnavailable for
    any OSError in the context, such as a full disk.
    """
    aside = None
    try:
        to.mkdir(parents=True, exist_ok=True)
        _sweep(to, name)
        aside = Path(tempfile.mkdtemp(prefix=prefix or f".{name}.tmp-", dir=to))
        folder = aside / name
        folder.mkdir()
        yield folder
    except OSError as error:
        raise StorageUnavailable(f"the folder of models cannot be written: {error_words(error)}") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def move_in(folder: Path, to: Path, *, replace: bool) -> Path:
    """Move a finished folder into the zoo folder `to` atomically, and return its new path.

    A reader of `to` sees either the complete old model or the complete new one, even after a power cut. If
    there was an old model, it is at `folder` afterwards. Raises OSError, and ModelExists if there is an old
    model and `replace` is False.
    """
    target = to / folder.name
    for path in (*folder.iterdir(), folder):
        _sync(path)
    try:
        folder.rename(target)  # fails if `target` is a folder with files
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not replace:
            check_free(to, folder.name, replace=False)
        _exchange(folder, target)
    _sync(to)
    return target


def move_back(folder: Path, target: Path) -> None:
    """Undo `move_in`: move the new model back to `folder`.

    If `move_in` replaced an old model, move the old model back to `target`.
    """
    if os.path.lexists(folder):
        _exchange(folder, target)
    else:
        target.rename(folder)
    _sync(target.parent)


def remove(name: str, *, root: Path) -> None:
    """Remove the model `name` from the zoo folder `root` atomically.

    Raises UnknownModel and StorageUnavailable.
    """
    target = root / name
    try:
        known = [path.name for path in root.iterdir() if holds_network(path)] if root.is_dir() else []
        if name not in known:
            raise UnknownModel(name, known)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}.tmp-", dir=root))
        try:
            target.rename(aside / name)
            _sync(root)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except FileNotFoundError:
        raise UnknownModel(name, ()) from None
    except OSError as error:
        raise StorageUnavailable(f"the folder of models cannot be written: {error_words(error)}") from None


def _exchange(folder: Path, target: Path) -> None:
    """Exchange the folders at the paths `folder` and `target`, atomically if the system can."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        exchange = getattr(library, "renameat2", None)
        if exchange is not None:
            names = (os.fsencode(folder), os.fsencode(target))
            if exchange(_AT_CWD, names[0], _AT_CWD, names[1], _EXCHANGE) == 0:
                return
    old = folder.with_name(f"{folder.name}.old")
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise
    old.rename(folder)


def _sync(path: Path) -> None:
    """Write a file's content or a folder's entries to disk, if the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _sweep(to: Path, name: str) -> None:
    """Remove temporary folders of this model that are older than an hour; killed processes have left them."""
    for path in to.glob(f".{name}.tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
