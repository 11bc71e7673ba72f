"""`weighin gallery reindex`: re-embed all images with another model and show progress."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from models.zoo.display import shown
from service.cli.gallery.client import Refused
from service.cli.gallery.target import Url, open_gallery
from service.cli.output import CANCELLED, say
from service.cli.progress import progress_bar

_POLL_INTERVAL_S = 0.2


def reindex(
    model: Annotated[str, typer.Option(help="Name of the new model")],
    url: Url = None,
) -> None:
    """Re-embed all images with another model.

    Until the last image is done, searches use the old model. An interrupted re-index continues when the
    command is repeated, or when a service starts.
    """
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
                time.sleep(_POLL_INTERVAL_S)
                state = client.state()
        except KeyboardInterrupt:
            hint = "the service continues the re-index" if url else "repeat the command to continue"
            print(f"interrupted: {hint}", file=sys.stderr)
            raise typer.Exit(CANCELLED) from None
    if state["model"] != model:
        raise Refused(f"gallery: re-indexed with '{state['model']}' by another client")
    say(f"{state['images']} images are embedded by {model}")
