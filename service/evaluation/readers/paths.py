"""Files of pictures: list them in a folder, and find them by the paths in a file of annotations."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from models.zoo.display import shown, without_surrogates
from models.zoo.files import read_regular
from service.errors import InvalidDataset, error_words
from service.inference.decoding.decode import SUFFIXES

MOST_PICTURES = 1_000_000
"""Maximum number of pictures in a data set."""
LAYOUTS = (
    "(allowed: a folder of pictures per class, a CSV file of path and label, COCO's JSON file, or a folder "
    "with Pascal VOC's Annotations)"
)
"""The layouts of data sets that can be read, in words for messages."""
_LEFT_BEHIND = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
)
"""Names, in lower case, of files and folders that operating systems and file servers add to folders."""
_OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".psd", ".svg"}
    | {".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"}
)
"""Suffixes of pictures that the service may be unable to decode. The pictures are listed nevertheless, so
that they are reported as unreadable."""
_OUTSIDE = " of the data set (allowed: a path below it; --images DIR gives another folder)"
_TRIED = 200
"""Number of paths, from the start of the list, that are used to find the folder in which all paths begin."""
_MOST_FOLDERS = 200
"""Maximum number of folders that are tried as the folder in which all paths begin."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file.

    `key`: its path relative to the folder of the data set, with `/` as separator. `size`: its size in bytes.
    """

    key: str
    path: Path
    size: int
    mtime_ns: int


def ignored(name: str) -> bool:
    """Return whether a file or folder is hidden, or was added by an operating system or file server."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def has_picture_suffix(name: str) -> bool:
    """Return whether a file name has the suffix of a picture."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or suffix in _OTHER_PICTURES


def read_file(path: Path, largest: int) -> bytes:
    """Return the content of a file of annotations of at most `largest` bytes. Raises InvalidDataset."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise InvalidDataset(f"{shown(path.name)}: {size} bytes (allowed: {largest})")
        return read_regular(path)
    except OSError as error:
        raise InvalidDataset(f"{shown(path.name)}: cannot be read, {error_words(error)}") from None


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, except for ignored ones. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not ignored(entry.name) and is_folder(entry))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:  # a link may point to itself
        return False


def file_at(path: Path, key: str) -> File | str:
    """Return the regular file at `path`, or a message that says why there is none."""
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot be read, {error_words(error)}"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return File(without_surrogates(key), path, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names of the files and folders in a folder.

    `plain`: for each plain form, the names that have this form. Names have the same plain form if they differ
    only in case and in Unicode form.
    """

    names: frozenset[str]
    plain: dict[str, list[str]]


class AnnotatedFiles:
    """The files that annotations name, all of them below `base`.

    Relative paths begin in `base`, or in a folder below it. To find out where, some paths at the beginning of
    `first`, the list of the paths in the annotations, are tried. If at least half of the relative ones among
    them exist in `base`, all relative paths begin in `base`. Otherwise they begin in the folder in which most
    of the tried ones exist, and a path that does not exist there is looked up in `base`.

    A path may have backslashes. It may differ from the file's name in case and in Unicode form, and may lack
    the suffix.

    The pictures may have been annotated on another machine. So if an absolute path does not exist on this
    machine, it is read without the beginning that all such paths share. A path with `..` must not lead out of
    `base`; links in `base` are followed.
    """

    def __init__(self, base: Path, first: Sequence[str]) -> None:
        self._base = base
        self._listings: dict[Path, _Listing] = {}
        self._found: set[Path] = set()
        self._beginning: tuple[str, ...] | None = None
        self.root = base
        relative = [parts for text in first[:_TRIED] for parts, absolute in [_split(text)] if not absolute]
        self.root = self._choose_root([parts for parts in relative if parts])

    def find(self, text: str) -> File | str:
        """Return the file that a path in an annotation names, or a message that says why there is none."""
        parts, absolute = _split(text)
        if parts is None:
            return f"leads out of the folder{_OUTSIDE}"
        if not parts:
            return "no path of a file"
        path = self._absolute(text, parts) if absolute else self._below(self.root, parts)
        if isinstance(path, str):
            return path
        if path is None and not absolute and self.root != self._base:
            path = self._below(self._base, parts)
        if path is None:
            return f"no such file below the folder{_OUTSIDE}" if absolute else "no such file"
        file = file_at(path, path.relative_to(self._base).as_posix())
        if isinstance(file, File):
            self._found.add(path)
        return file

    def notes(self) -> list[str]:
        """Return notes for the user.

        They name the beginning of paths that is ignored, and pictures that have no annotation.
        """
        notes = []
        if self._beginning is not None:
            notes.append(f"paths are read without their beginning {shown('/'.join(self._beginning))[:300]}")
        others = sorted(
            (folder / name).relative_to(self._base).as_posix()
            for folder in {path.parent for path in self._found}
            for name in self._list(folder).names
            if has_picture_suffix(name) and not ignored(name) and folder / name not in self._found
        )
        if others:
            pictures = "1 picture" if len(others) == 1 else f"{len(others)} pictures"
            more = ", ..." if len(others) > 3 else ""
            notes.append(
                f"{pictures} without an annotation beside the annotated ones, left out: "
                f"{', '.join(shown(other)[:300] for other in others[:3])}{more}"
            )
        return notes

    def _choose_root(self, paths: Sequence[Sequence[str]]) -> Path:
        def hits(folder: Path) -> int:
            return sum(self._below(folder, parts) is not None for parts in paths)

        in_base = hits(self._base)
        if 2 * in_base >= len(paths):
            return self._base
        best = max(self._folders(), key=hits, default=self._base)
        return best if hits(best) > in_base else self._base

    def _folders(self) -> list[Path]:
        """Return the folders in the base, and the folders in each of these folders."""
        folders: list[Path] = []
        for folder in (self._base, *(self._base / name for name in _folders(self._base))):
            folders += [folder / name for name in _folders(folder)]
        return folders[:_MOST_FOLDERS]

    def _absolute(self, text: str, parts: tuple[str, ...]) -> Path | str | None:
        """Return the path of the file that an absolute path names.

        Return a message if the file must not be read, and None if there is no such file. `parts`: the parts
        of the path.
        """
        given = Path(text.strip())
        if not given.is_absolute() or not os.path.lexists(given):
            return self._of_another_machine(parts)
        for base in (self._base.absolute(), self._base.resolve()):
            if given.is_relative_to(base):
                return self._below(self._base, given.relative_to(base).parts)
        return f"outside of the folder{_OUTSIDE}"

    def _of_another_machine(self, parts: tuple[str, ...]) -> Path | None:
        """Return the file that an absolute path of another machine names, or None if there is none.

        The path is read without its beginning. The first path that names a file without its beginning
        determines this beginning; only paths with the same one are read after that.
        """
        if self._beginning is not None:
            beginning = len(self._beginning)
            return (
                self._below(self._base, parts[beginning:]) if parts[:beginning] == self._beginning else None
            )
        for beginning in range(1, len(parts)):
            path = self._below(self._base, parts[beginning:])
            if path is not None:
                self._beginning = parts[:beginning]
                return path
        return None

    def _below(self, folder: Path, parts: Sequence[str]) -> Path | None:
        for number, part in enumerate(parts):
            name = self._child(folder, part, last=number == len(parts) - 1)
            if name is None:
                return None
            folder = folder / name
        return folder

    def _child(self, folder: Path, name: str, *, last: bool) -> str | None:
        listing = self._list(folder)
        if name in listing.names:
            return name
        similar = listing.plain.get(_plain(name), [])
        if not similar and last and not os.path.splitext(name)[1]:
            similar = [
                file for suffix in sorted(SUFFIXES) for file in listing.plain.get(_plain(name + suffix), [])
            ]
        return similar[0] if len(similar) == 1 else None

    def _list(self, folder: Path) -> _Listing:
        if folder not in self._listings:
            try:
                names = frozenset(os.listdir(folder))
            except (OSError, ValueError):  # not a folder, or a NUL in its name
                names = frozenset()
            plain: dict[str, list[str]] = {}
            for name in sorted(names):
                plain.setdefault(_plain(name), []).append(name)
            self._listings[folder] = _Listing(names, plain)
        return self._listings[folder]


def _folders(folder: Path) -> list[str]:
    try:
        return folders_in(folder)[:_MOST_FOLDERS]
    except OSError:
        return []


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _split(text: str) -> tuple[tuple[str, ...] | None, bool]:
    """Return the parts of a path, and whether it is absolute.

    The parts are None if `..` leads out of the folder. The first part of an absolute path is its drive or
    server. If the path has no drive and no server, the first part is empty.
    """
    text = text.strip().replace("\\", "/")
    drive = PureWindowsPath(text).drive.replace("\\", "/") if text[1:2] == ":" or text[:2] == "//" else ""
    absolute = bool(drive) or text.startswith("/")
    parts: list[str] = []
    for part in text[len(drive) :].split("/"):
        if part == "..":
            if not parts:
                return None, absolute
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ((drive, *parts) if absolute else tuple(parts)), absolute
