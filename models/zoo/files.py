"""Files: where a zoo's networks are, regular files and text, whole writes, a JSON-lines log."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that `path` is never seen half written, not even after a power cut.

    Raises OSError where that place cannot be written; what was there stays then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class JsonLines:
    """Append-only log of JSON objects, one a line, each on disk before `append` returns.

    `records` holds what the file has. A last line that is damaged or not ended was cut off: it is dropped.
    With `conditions` the file's first line must be equal to them; it is written where the file is empty.
    Raises ValueError where they differ, and for a damaged line that is not the last.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any] | None = None) -> None:
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            self.records: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to start again") from None
        if conditions is not None:
            if self.records:
                self._check(self.records.pop(0), conditions)
            else:
                whole = json.dumps(conditions).encode() + b"\n"
        if whole != content:
            write_whole(path, whole)

    def append(self, record: dict[str, Any]) -> None:
        """Add a record."""
        with self._path.open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    def _check(self, first: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        keys = sorted(first.keys() | conditions.keys())
        differing = [key for key in keys if first.get(key) != conditions.get(key)]
        if differing:
            raise ValueError(
                f"{self._path} was measured under other conditions ({', '.join(differing)} differ); "
                "remove it, or choose another folder"
            )
