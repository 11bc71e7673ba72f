"""`weighin gallery export` and `weighin gallery import`: from here to anywhere, and back."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.cli.gallery.archive import Archive, write_archive
from service.cli.gallery.client import Refused
from service.cli.gallery.display import CANCELLED, progress_bar
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import say, styled


def export_gallery(
    file: Annotated[Path, typer.Argument(help="The tar file to write", metavar="FILE.tar")],
    url: Url = None,
) -> None:
    """Write all images, as they came, with ids and metadata, to a tar file with a JSON-lines file in it."""
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {file.absolute().parent}")
    gone: list[str] = []
    number = 0
    with open_gallery(url) as client, progress_bar() as bar:

        def content(id: str) -> bytes | None:
            try:
                return client.content(id)
            except Refused as error:
                if error.status != 404:
                    raise
                gone.append(id)
                return None

        task = bar.add_task("exporting", total=None)
        try:
            for number, total in write_archive(file, client.images(), content):
                bar.update(task, completed=number, total=total)
        except KeyboardInterrupt:
            print("interrupted: nothing was written", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
    say(f"{number - len(gone)} images written to {file}")
    if gone:
        print(f"{len(gone)} were removed meanwhile and are not in it", file=sys.stderr)


def import_gallery(
    file: Annotated[Path, typer.Argument(help="A tar file from `export`", metavar="FILE.tar")],
    url: Url = None,
) -> None:
    """Keep all images of an exported gallery under the ids they had, over what is there under these."""
    done: Counter[str] = Counter()
    with Archive(file) as archive, open_gallery(url) as client, progress_bar() as bar:
        task = bar.add_task("importing", total=len(archive))
        try:
            for image in archive:
                try:
                    new = client.put(image.id, image.content, image.metadata) == 201
                except Refused as error:
                    if error.hopeless:
                        raise
                    done["rejected"] += 1
                    bar.console.print(styled(f"{image.id}: {error.detail}"), soft_wrap=True)
                else:
                    done["added" if new else "there before"] += 1
                bar.advance(task)
        except KeyboardInterrupt:
            print(_told(done))
            print("interrupted: the same command again goes on from here", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
        finally:
            bar.stop()
    print(_told(done))
    if archive.left_out:
        print(f"{archive.left_out} images are described in the file but not in it", file=sys.stderr)
    if done["rejected"]:
        raise typer.Exit(1)


def _told(done: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in done.items()) or "no images"
