"""Exported gallery: a tar file with `gallery.jsonl` and the original bytes of the images.

`gallery.jsonl` is the first member. It has one line per image, with `id`, `file`, `sha256` and `metadata`.
The fields `width`, `height`, `bytes` and `created_at` are for information only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import WeighinError

LINES = "gallery.jsonl"
FOLDER = "images"
_LONGEST_LINE = 1 << 20
_MOST_LINES_BYTES = 1 << 32


class BadArchive(WeighinError):
    """The file is not an exported gallery, or is damaged."""

    slug = "bad-archive"


@dataclass(frozen=True)
class Archived:
    """An image read from an archive."""

    id: str
    metadata: dict[str, Any]
    content: bytes


def write_archive(
    target: Path, images: Iterable[dict[str, Any]], content: Callable[[str], bytes | None]
) -> Iterator[tuple[int, int]]:
    """Write all images to `target`, and yield (number processed, total) after each, left out or not.

    The file `target` appears only when it is complete. `content` takes the id of an image and returns the
    image's bytes. If it returns None, the image was deleted meanwhile, and is left out.
    """
    target = target.absolute()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        lines, unfinished = Path(folder) / LINES, Path(folder) / "tar"
        ids: list[str] = []
        with lines.open("w", encoding="utf-8") as out:
            for image in images:
                ids.append(image["id"])
                line = {**image, "file": f"{FOLDER}/{image['id']}"}
                out.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        with tarfile.open(unfinished, "w") as tar:
            tar.add(lines, LINES, filter=_anonymous)
            for number, id in enumerate(ids, 1):
                data = content(id)
                if data is not None:
                    member = _anonymous(tarfile.TarInfo(f"{FOLDER}/{id}"))
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                yield number, len(ids)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(target)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o644
    return member


class Archive:
    """Sequential reader of an exported gallery, used as a context manager. Nothing is unpacked to disk."""

    def __init__(self, file: Path) -> None:
        """Open `file` and read `gallery.jsonl`. Raises FileNotFoundError and BadArchive."""
        if not file.is_file():
            raise FileNotFoundError(f"no such file: {file}")
        try:
            self._tar = tarfile.open(file, "r|*")  # noqa: SIM115  # closed by __exit__
        except tarfile.TarError as error:
            raise BadArchive(f"{file}: not a tar file: {error}") from None
        try:
            self._images = self._read_lines(file)
        except BaseException:
            self._tar.close()
            raise

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Archived]:
        """Yield the images in the order of the file.

        Raises BadArchive if the file is truncated or an image does not match its SHA-256.
        """
        missing = dict(self._images)
        try:
            while (member := self._tar.next()) is not None:
                line = missing.pop(member.name, None)
                file = self._tar.extractfile(member) if member.isreg() and line is not None else None
                if line is None or file is None:
                    continue
                content = file.read()
                if "sha256" in line and hashlib.sha256(content).hexdigest() != line["sha256"]:
                    raise BadArchive(f"image '{line['id']}': damaged, its sha256 does not match")
                yield Archived(line["id"], line["metadata"], content)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise BadArchive(f"damaged file: {error}") from None
        self.left_out = len(missing)

    left_out = 0
    """Number of images that are listed but have no bytes, because they were deleted during the export.

    Set after the last image was read.
    """

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def _read_lines(self, file: Path) -> dict[str, dict[str, Any]]:
        invalid = BadArchive(f"{file}: not an exported gallery: does not begin with {LINES}")
        try:
            member = self._tar.next()
            lines = None if member is None or member.name != LINES else self._tar.extractfile(member)
            if member is None or lines is None or member.size > _MOST_LINES_BYTES:
                raise invalid
            images = {}
            while line := lines.readline(_LONGEST_LINE):
                image = json.loads(line)
                metadata = image.get("metadata", {})
                if not isinstance(image["id"], str) or not isinstance(metadata, dict):
                    raise invalid
                images[image["file"]] = {**image, "metadata": metadata}
        except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, EOFError, OSError):
            raise invalid from None
        return images
