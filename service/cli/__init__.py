"""`weighin ...`: the command line, a file per command."""

from __future__ import annotations

import typer

from service.cli.add import add_model
from service.cli.bench import bench_app
from service.cli.compare import compare_photos
from service.cli.doctor import doctor
from service.cli.gallery import gallery_app
from service.cli.models import list_models
from service.cli.output import print_anything, say
from service.cli.quantize import quantize
from service.cli.recommend import recommend
from service.cli.serve import serve
from service.errors import WeighinError
from service.logs import configure_logging

app = typer.Typer(
    help="Put lightweight image classifiers on the scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve)
app.command("models")(list_models)
app.command("add")(add_model)
app.command("quantize")(quantize)
app.command("compare")(compare_photos)
app.add_typer(bench_app, name="bench")
app.add_typer(gallery_app, name="gallery")
app.command("doctor")(doctor)
app.command("recommend")(recommend)


def main() -> None:
    """Run the command line; an expected failure is one line on standard error and exit code 1."""
    print_anything()
    configure_logging("text", "warning")  # on standard error; `serve` configures it again from its settings
    try:
        app()
    except (WeighinError, FileNotFoundError) as error:
        say(f"weighin: {error}", error=True)
        raise SystemExit(1) from None
