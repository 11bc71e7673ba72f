"""Read the files of a zoo folder, whatever lies there under their names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


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
