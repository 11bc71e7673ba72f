"""`weighin gallery export` and `weighin gallery import`: move a gallery as a tar file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.cli.gallery.archive import Archive, write_archive
from service.cli.gallery.client import Refused
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import CANCELLED, say, styled
from service.cli.progress import progress_bar


def export_gallery(
    file: Annotated[Path, typer.Argument(help="Tar file to write", metavar="FILE.tar")],
    url: Url = None,
) -> None:
    """Write all images to a tar file: their original bytes, and their ids and metadata as JSON lines."""
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {file.absolute().parent}")
    deleted: list[str] = []
    number = 0
    with open_gallery(url) as client, progress_bar() as bar:

        def content(id: str) -> bytes | None:
            try:
                return client.content(id)
            except Refused as error:
                if error.status != 404:
                    raise
                deleted.append(id)
                return None

        task = bar.add_task("exporting", total=None)
        try:
            for number, total in write_archive(file, client.images(), content):
                bar.update(task, completed=number, total=total)
        except KeyboardInterrupt:
            print("interrupted: nothing written", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
    say(f"{number - len(deleted)} images written to {file}")
    if deleted:
        print(f"{len(deleted)} images left out: deleted during the export", file=sys.stderr)


def import_gallery(
    file: Annotated[Path, typer.Argument(help="Tar file that `export` wrote", metavar="FILE.tar")],
    url: Url = None,
) -> None:
    """Store all images of an exported gallery under their ids. Stored images with these ids are replaced."""
    counts: Counter[str] = Counter()
    with Archive(file) as archive, open_gallery(url) as client, progress_bar() as bar:
        task = bar.add_task("importing", total=len(archive))
        try:
            for image in archive:
                try:
                    new = client.put(image.id, image.content, image.metadata) == 201
                except Refused as error:
                    if error.hopeless:
                        raise
                    counts["rejected"] += 1
                    bar.console.print(styled(f"{image.id}: {error.detail}"), soft_wrap=True)
                else:
                    counts["added" if new else "replaced"] += 1
                bar.advance(task)
        except KeyboardInterrupt:
            print(_summary(counts))
            print("interrupted: repeat the command to continue", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
        finally:
            bar.stop()
    print(_summary(counts))
    if archive.left_out:
        print(f"{archive.left_out} images left out: listed in the file without bytes", file=sys.stderr)
    if counts["rejected"]:
        raise typer.Exit(1)


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no images"
