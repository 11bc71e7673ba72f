"""`weighin ...`: the command line, a file per command; only that of the command that is run is imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_group

from service.cli.output import print_anything, say
from service.errors import WeighinError
from service.logs import configure_logging


class _Command(NamedTuple):
    """Where a command is: the module in this package and the name in it, with the help of the list."""

    module: str
    name: str
    help: str


COMMANDS = {
    "serve": _Command(
        "serve",
        "serve",
        "Serve over HTTP. Every setting can also be given as an environment variable, WEIGHIN_<NAME>.",
    ),
    "models": _Command(
        "models", "list_models", "List the models that would be served, and why one would not be."
    ),
    "compare": _Command(
        "compare", "compare_photos", "Run photos through several models, side by side, without a server."
    ),
    "doctor": _Command(
        "doctor",
        "doctor",
        "Find out why a model is slow on this machine: faults with evidence and remedy, costly operators.",
    ),
    "recommend": _Command(
        "recommend",
        "recommend",
        "Say which network fits a budget, by what `weighin bench` measured on this machine or wrote to "
        "bundles.",
    ),
    "bench": _Command("bench", "bench_app", "Measure models on this machine, controlled and interleaved."),
    "gallery": _Command(
        "gallery",
        "gallery_app",
        "Images to be found again by their likes: `POST /retrieve-similar` searches them.",
    ),
}


def load_command(name: str) -> Any:
    """Import a command and return it as typer runs it. Raises KeyError for an unknown name."""
    command = COMMANDS[name]
    found = getattr(import_module(f"{__name__}.{command.module}"), command.name)
    single = typer.Typer(add_completion=False)
    if isinstance(found, typer.Typer):
        single.add_typer(found, name=name)
    else:
        single.command(name)(found)
    return get_group(single).commands[name]


class _LazyGroup(TyperGroup):
    """Lists commands by name and help alone, and imports the one that is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.add_command(load_command(args[0]))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_LazyGroup,
    help="Put lightweight image classifiers on the scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _listed in COMMANDS.items():
    app.command(_name, help=_listed.help)(lambda: None)


def main() -> None:
    """Run the command line; an expected failure is one line on standard error and exit code 1."""
    print_anything()
    configure_logging("text", "warning")  # on standard error; `serve` configures it again from its settings
    try:
        app()
    except (WeighinError, FileNotFoundError) as error:
        say(f"weighin: {error}", error=True)
        raise SystemExit(1) from None
