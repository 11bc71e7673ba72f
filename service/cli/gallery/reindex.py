"""`weighin gallery reindex`: embed all images by another model, and watch it."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from service.cli.gallery.client import Refused
from service.cli.gallery.display import CANCELLED, progress_bar
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import say
from service.text.display import shown

_LOOK_EVERY_S = 0.2


def reindex(
    model: Annotated[str, typer.Option(help="The model whose embeddings shall answer")],
    url: Url = None,
) -> None:
    """Embed all images by another model. The one of before answers until the last image is done. What was
    interrupted is gone on with by the same command, or by a service that is started."""
    with open_gallery(url) as client, progress_bar() as bar:
        try:
            state = client.reindex(model)
            task = bar.add_task("embedding", total=None)
            while (running := state["reindexing"]) is not None:
                bar.update(task, completed=running["done"], total=running["total"])
                if running["problem"] is not None:
                    bar.update(task, description=shown(f"waiting: {running['problem']}"))
                else:
                    bar.update(task, description="embedding")
                time.sleep(_LOOK_EVERY_S)
                state = client.state()
        except KeyboardInterrupt:
            where = "the service goes on by itself" if url else "the same command again goes on from here"
            print(f"interrupted: {where}", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
    if state["model"] != model:
        raise Refused(f"the gallery is embedded by {state['model']}: someone else changed it meanwhile")
    say(f"{state['images']} images are embedded by {model}")
