"""Find the networks of a zoo, read regular files and text, write files atomically, and keep a log of JSON."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NETWORKS = Path(__file__).parent / "networks"
"""Folder of the included networks. Each network has a folder in it."""


def networks_in(zoo: Path | str) -> Path:
    """Return the folder that contains the networks' folders.

    It is `zoo/networks` if this folder exists and is not a network itself. Otherwise it is `zoo`.
    """
    inside = Path(zoo) / "networks"
    return inside if inside.is_dir() and not holds_network(inside) else Path(zoo)


def holds_network(folder: Path) -> bool:
    """Return whether `folder` has a card or an ONNX file, even if this is only a broken link.

    Raises OSError if `folder` cannot be searched.
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

    Raises OSError for anything else, e.g. a named pipe, whose reader would wait forever.
    """
    _check_regular(path)
    return path.read_bytes()


def read_chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the content of a regular file in chunks of `size` bytes.

    For an empty file, one empty chunk is yielded. Raises OSError for anything that is not a regular file.
    """
    _check_regular(path)
    with path.open("rb") as file:
        yield file.read(size)
        while chunk := file.read(size):
            yield chunk


def _check_regular(path: Path) -> None:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", path.name)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path.name)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, UTF-16 or UTF-32, without byte order marks.

    Windows' editors and shells write such marks and UTF-16. Raises OSError for anything that is not a regular
    file, and UnicodeDecodeError if the content is not text.
    """
    content = read_regular(path)
    encoding = json.detect_encoding(content)  # by the byte order mark, else by NUL bytes at the beginning
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("utf-8")  # raises an error that names UTF-8
    return text.lstrip("\ufeff")  # some tools add a second mark


def not_text(error: UnicodeDecodeError) -> str:
    """Return a message with the position and value of the invalid byte, but not the bytes around it."""
    return f"byte 0x{error.object[error.start]:02x} at {error.start} is not {error.encoding}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: readers never see a partial file, not even after a power cut.

    Raises OSError if the file cannot be written. The previous file then stays.
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
    """A log of JSON objects in a file, one on each line, to which records are appended.

    `records` has the objects in the file, except the first line if `conditions` are given. An incomplete last
    line is dropped. If `conditions` are given, the first line must have this content. It is written if the
    file is empty.
    Raises ValueError if the first line differs from `conditions`, and if a complete line is damaged.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any] | None = None) -> None:
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]
        try:
            self.records: list[dict[str, Any]] = [json.loads(line) for line in complete.splitlines()]
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); remove it to start again") from None
        if conditions is not None:
            if self.records:
                self._check(self.records.pop(0), conditions)
            else:
                complete = json.dumps(conditions).encode() + b"\n"
        if complete != content:
            write_whole(path, complete)

    def append(self, *records: dict[str, Any]) -> None:
        """Append records and wait until they are on disk. Raises OSError if they cannot be written."""
        with self._path.open("ab") as file:
            file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        self.records.extend(records)

    def _check(self, first: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        keys = sorted(first.keys() | conditions.keys())
        differing = [key for key in keys if first.get(key) != conditions.get(key)]
        if differing:
            raise ValueError(
                f"{self._path}: measured under other conditions ({', '.join(differing)} differ); "
                "remove it, or choose another folder"
            )
