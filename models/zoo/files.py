"""Where the networks of a zoo are, and reading their files, whatever lies there under their names."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

NETWORKS = Path(__file__).parent / "networks"
"""The networks that come with the project, a folder each."""


def networks_in(zoo: Path | str) -> Path:
    """Return the folder whose folders are networks: `zoo/networks` where there is one, else `zoo` itself."""
    inside = Path(zoo) / "networks"
    return inside if inside.is_dir() and not holds_network(inside) else Path(zoo)


def holds_network(folder: Path) -> bool:
    """Return whether `folder` has a card or a model, broken links included.

    Raises OSError where that cannot be told.
    """
    return _exists(folder / "card.json") or _exists(folder / "model.onnx")


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises OSError for anything else: a named pipe would be waited for without end.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", path.name)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path.name)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Return the text of a file that people write, in UTF-8, UTF-16 or UTF-32, without byte order marks.

    Windows' editors and shells write the marks and UTF-16. Raises OSError as `read_regular` does, and
    UnicodeDecodeError.
    """
    content = read_regular(path)
    encoding = json.detect_encoding(content)  # by the byte order mark, or by where NUL is at the beginning
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("utf-8")  # to say that it is not that
    return text.lstrip("\ufeff")  # tools that add a mark add it to text that has one, too


def not_text(error: UnicodeDecodeError) -> str:
    """Say where a file's bytes are no text, without the bytes around."""
    return f"byte 0x{error.object[error.start]:02x} at {error.start} is not {error.encoding}"
