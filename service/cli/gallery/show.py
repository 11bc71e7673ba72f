"""`weighin gallery list` and `weighin gallery remove`: list and delete images."""

from __future__ import annotations

import itertools
import json
from typing import Annotated

import typer
from rich.table import Table

from models.zoo.display import shown
from service.cli.gallery.client import Refused
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import console, print_document, say

Where = Annotated[
    str | None,
    typer.Option(help='Metadata filter as JSON: \'{"label": "cat", "year": {"gte": 2019}}\''),
]


def list_images(
    where: Where = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images [default: all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line")] = False,
    url: Url = None,
) -> None:
    """List the images with their metadata, sorted by id."""
    with open_gallery(url) as client:
        images = itertools.islice(client.images(where), limit)
        if as_json:
            for image in images:
                print_document(json.dumps(image) + "\n")
            return
        state = client.state()
        table = Table("id", box=None, pad_edge=False)
        table.add_column("pixels", justify="right")
        table.add_column("bytes", justify="right")
        table.add_column("metadata")
        for image in images:
            metadata = ", ".join(f"{name}={value}" for name, value in image["metadata"].items())
            pixels = f"{image['width']} x {image['height']}"
            table.add_row(shown(image["id"]), pixels, str(image["bytes"]), shown(metadata))
    out = console()
    out.print(table)
    size_mb = state["bytes"] / 1e6
    total = f"{state['images']} images of {size_mb:.1f} MB in total, embedded by {state['model']}"
    out.print(total, style="dim", highlight=False)


def remove(
    ids: Annotated[list[str], typer.Argument(help="Ids of the images", metavar="ID...")],
    url: Url = None,
) -> None:
    """Delete images. Unknown ids are reported; the images with the other ids are deleted nevertheless."""
    missing = 0
    with open_gallery(url) as client:
        for id in ids:
            try:
                client.remove(id)
            except Refused as error:
                if error.status not in (404, 422):
                    raise
                say(f"weighin: {error.detail}", error=True)
                missing += 1
    print(f"{len(ids) - missing} removed")
    if missing:
        raise typer.Exit(1)
