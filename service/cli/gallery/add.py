"""`weighin gallery add`: add images and folders of images, with several concurrent requests."""

from __future__ import annotations

import itertools
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from models.zoo.display import shown, without_surrogates
from service.cli.gallery.client import GalleryClient, Refused
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import CANCELLED, say, styled
from service.cli.progress import progress_bar
from service.errors import InvalidParameter, UnreadableFolder, error_words
from service.inference.decoding.decode import SUFFIXES

_AT_ONCE = 8
"""Number of concurrent requests. It is large enough to keep all cores of the service busy."""


@dataclass(frozen=True)
class ImageFile:
    """An image file, and the folder, given on the command line, that contains it."""

    file: Path
    root: Path


def add(
    places: Annotated[list[str], typer.Argument(help="Images, or folders with images", metavar="DIR...")],
    metadata_from_path: Annotated[
        bool,
        typer.Option(
            "--metadata-from-path",
            help="Store the relative path as `path` and the name of the parent folder as `label`",
        ),
    ] = False,
    url: Url = None,
) -> None:
    """Add images.

    Files that the gallery already has, byte for byte, are not added again. So an interrupted command can be
    continued by repeating it.
    """
    if not all(places):
        raise InvalidParameter("DIR is empty (allowed: files and folders; '.' for this folder)")
    files, others = _find([Path(place) for place in places])
    counts: Counter[str] = Counter()
    with open_gallery(url) as client, progress_bar() as bar:
        task = bar.add_task("adding", total=len(files))
        try:
            for image, status, detail in _added(client, files, metadata_from_path):
                counts[status] += 1
                bar.advance(task)
                if status == "rejected":
                    bar.console.print(styled(f"{image.file}: {detail}"), soft_wrap=True)
        except KeyboardInterrupt:
            _print_counts(counts, others)
            print("interrupted: repeat the command to continue", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
        except Refused:
            _print_counts(counts, others)
            raise
    _print_counts(counts, others)
    if counts["rejected"]:
        raise typer.Exit(1)


def _print_counts(counts: Counter[str], others: int) -> None:
    parts = [f"{counts[status]} {status}" for status in ("added", "exists", "rejected") if counts[status]]
    if others:
        parts.append(f"{others} other files skipped")
    print(", ".join(parts) or "nothing to add")


def _find(places: list[Path]) -> tuple[list[ImageFile], int]:
    """Return the distinct images in files and folders, sorted, and the number of other files.

    Raises FileNotFoundError and UnreadableFolder.
    """
    files: dict[Path, ImageFile] = {}
    others = 0
    for place in places:
        try:
            mode = os.stat(place).st_mode
        except FileNotFoundError:
            raise FileNotFoundError(f"no such file or folder: {place}") from None
        except OSError as error:
            raise UnreadableFolder(f"{place} cannot be read: {error_words(error)}") from None
        if not stat.S_ISDIR(mode):
            files.setdefault(place.absolute(), ImageFile(place, place.parent))
            continue
        for file in sorted(_files_in(place)):
            if file.suffix.lower() in SUFFIXES:
                files.setdefault(file.absolute(), ImageFile(file, place))
            else:
                others += 1
    return list(files.values()), others


def _files_in(place: Path) -> Iterator[Path]:
    """Yield the regular files in `place` and its subfolders; report and skip unreadable ones.

    Raises UnreadableFolder if `place` itself cannot be read.
    """

    def skip(error: OSError) -> None:
        if Path(error.filename) == place:
            raise UnreadableFolder(f"folder {shown(str(place))} cannot be read: {error_words(error)}")
        say(f"skipped: {error.filename}: {error_words(error)}", error=True)

    for folder, _, names in os.walk(place, onerror=skip):
        for name in names:
            path = Path(folder, name)
            try:
                if stat.S_ISREG(os.stat(path).st_mode):
                    yield path
            except OSError as error:  # broken link, loop of links, folder that may be listed but not entered
                say(f"skipped: {path}: {error_words(error)}", error=True)


def metadata_of(image: ImageFile) -> dict[str, str]:
    r"""Return metadata of a file: `path`, relative to `image.root`, and `label`, the parent folder's name.

    Bytes of a name that are not UTF-8 are written in hexadecimal, such as `\x80`.
    """
    path = image.file.relative_to(image.root)
    label = {"label": path.parent.name} if path.parent.name else {}
    return {name: without_surrogates(value) for name, value in {"path": path.as_posix(), **label}.items()}


def _added(
    client: GalleryClient, files: Iterable[ImageFile], metadata_from_path: bool
) -> Iterator[tuple[ImageFile, str, str | None]]:
    """Add files with several concurrent requests.

    Yield file, status and detail of each file when its response arrives. If a response shows that further
    requests would fail, too, no more files are sent, and Refused is raised after the pending responses.
    """

    def add_file(image: ImageFile) -> tuple[ImageFile, str, str | None] | Refused:
        try:
            content = image.file.read_bytes()
            answer = client.add(content, metadata_of(image) if metadata_from_path else {})
        except OSError as error:
            return image, "rejected", error.strerror
        except Refused as error:
            return error if error.hopeless else (image, "rejected", error.detail)
        return image, answer["status"], answer["detail"]

    # `map` of the executor would submit all files at once, and would continue after Ctrl-C.
    remaining = iter(files)
    refusal: Refused | None = None
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        pending: set[Future[tuple[ImageFile, str, str | None] | Refused]] = set()
        while True:
            free = _AT_ONCE - len(pending) if refusal is None else 0
            pending |= {threads.submit(add_file, image) for image in itertools.islice(remaining, free)}
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in done):
                if isinstance(outcome, Refused):
                    refusal = outcome
                else:
                    yield outcome
    if refusal is not None:
        raise refusal
