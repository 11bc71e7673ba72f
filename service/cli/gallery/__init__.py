"""`weighin gallery`: manage the gallery of a running service or of the configured database."""

from __future__ import annotations

import typer

from service.cli.gallery.add import add
from service.cli.gallery.move import export_gallery, import_gallery
from service.cli.gallery.reindex import reindex
from service.cli.gallery.show import list_images, remove

gallery_app = typer.Typer(
    help="Manage the gallery, which `POST /retrieve-similar` searches for similar images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
gallery_app.command("add")(add)
gallery_app.command("list")(list_images)
gallery_app.command("remove")(remove)
gallery_app.command("export")(export_gallery)
gallery_app.command("import")(import_gallery)
gallery_app.command("reindex")(reindex)
