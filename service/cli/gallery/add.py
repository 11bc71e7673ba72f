"""`weighin gallery add`: images and folders of them, several at a time, each committed by itself."""

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

from service.cli.gallery.client import GalleryClient, Refused
from service.cli.gallery.display import CANCELLED, progress_bar
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import say, styled
from service.errors import InvalidParameter, UnreadableFolder, error_words
from service.inference.decoding.decode import SUFFIXES
from service.text.display import shown, without_surrogates

_AT_ONCE = 8
"""Images on their way, so that all cores of the service have work."""


@dataclass(frozen=True)
class Found:
    """A file, and the folder it was found under."""

    file: Path
    root: Path


def add(
    places: Annotated[list[str], typer.Argument(help="Images, or folders with images", metavar="DIR...")],
    metadata_from_path: Annotated[
        bool,
        typer.Option(
            "--metadata-from-path",
            help="Keep where each image lay as `path`, and the name of its folder as `label`",
        ),
    ] = False,
    url: Url = None,
) -> None:
    """Add images. What is there already, byte for byte, is not added again, so an interrupted command can be
    given again and goes on where it was."""
    if not all(places):
        raise InvalidParameter("a place is empty (allowed: files and folders; '.' for this folder)")
    files, others = _find([Path(place) for place in places])
    done: Counter[str] = Counter()
    with open_gallery(url) as client, progress_bar() as bar:
        task = bar.add_task("adding", total=len(files))
        try:
            for found, status, detail in _added(client, files, metadata_from_path):
                done[status] += 1
                bar.advance(task)
                if status == "rejected":
                    bar.console.print(styled(f"{found.file}: {detail}"), soft_wrap=True)
        except KeyboardInterrupt:
            _tell(done, others)
            print("interrupted: the same command again goes on from here", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
        except Refused:
            _tell(done, others)
            raise
    _tell(done, others)
    if done["rejected"]:
        raise typer.Exit(1)


def _tell(done: Counter[str], others: int) -> None:
    told = [f"{done[status]} {status}" for status in ("added", "exists", "rejected") if done[status]]
    if others:
        told.append(f"{others} other files passed over")
    print(", ".join(told) or "nothing to add")


def _find(places: list[Path]) -> tuple[list[Found], int]:
    """The images in these places in a fixed order, each once, and how many other files lie there."""
    files: dict[Path, Found] = {}
    others = 0
    for place in places:
        try:
            mode = os.stat(place).st_mode
        except FileNotFoundError:
            raise FileNotFoundError(f"no such file or folder: {place}") from None
        except OSError as error:
            raise UnreadableFolder(f"{place} cannot be read: {error_words(error)}") from None
        if not stat.S_ISDIR(mode):
            files.setdefault(place.absolute(), Found(place, place.parent))
            continue
        for file in sorted(_files_in(place)):
            if file.suffix.lower() in SUFFIXES:
                files.setdefault(file.absolute(), Found(file, place))
            else:
                others += 1
    return list(files.values()), others


def _files_in(place: Path) -> Iterator[Path]:
    """The regular files in `place` and the folders below. What cannot be read is named and passed over.

    Raises UnreadableFolder when `place` itself cannot be read.
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
            except OSError as error:  # a broken link, a loop, a folder that may be listed but not entered
                say(f"skipped: {path}: {error_words(error)}", error=True)


def metadata_of(found: Found) -> dict[str, str]:
    """Metadata from a file's place: `path` from the folder that was named, `label` for the folder it lies in.

    A byte of a name that is no UTF-8 is written as `\x80`.
    """
    path = found.file.relative_to(found.root)
    label = {"label": path.parent.name} if path.parent.name else {}
    return {name: without_surrogates(value) for name, value in {"path": path.as_posix(), **label}.items()}


def _added(
    client: GalleryClient, files: Iterable[Found], metadata_from_path: bool
) -> Iterator[tuple[Found, str, str | None]]:
    """Each file with what became of it, in the order of the answers. Raises Refused when it is no use to go
    on, after the answers to those that were on their way."""

    def one(found: Found) -> tuple[Found, str, str | None] | Refused:
        try:
            content = found.file.read_bytes()
            answer = client.add(content, metadata_of(found) if metadata_from_path else {})
        except OSError as error:
            return found, "rejected", error.strerror
        except Refused as error:
            return error if error.hopeless else (found, "rejected", error.detail)
        return found, answer["status"], answer["detail"]

    # Not `map`: that would take all files in hand at once, and go on with them after Ctrl-C.
    left = iter(files)
    refusal: Refused | None = None
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        waiting: set[Future[tuple[Found, str, str | None] | Refused]] = set()
        while True:
            room = _AT_ONCE - len(waiting) if refusal is None else 0
            waiting |= {threads.submit(one, found) for found in itertools.islice(left, room)}
            if not waiting:
                break
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in ready):
                if isinstance(outcome, Refused):
                    refusal = outcome
                else:
                    yield outcome
    if refusal is not None:
        raise refusal
