"""The command line `weighin`. Each command has its own file, which is imported only when the command runs."""

from __future__ import annotations

import atexit
import gc
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_group

from service.cli.output import escape_unencodable, open_missing_output, say
from service.errors import WeighinError
from service.logs import configure_logging


class _Command(NamedTuple):
    """A command: its module in this package, its name in the module, and its text in the list of commands."""

    module: str
    name: str
    help: str


COMMANDS = {
    "serve": _Command(
        "serve",
        "serve",
        "Run the HTTP service. Every setting can also be set by an environment variable, WEIGHIN_<NAME>.",
    ),
    "models": _Command(
        "models",
        "list_models",
        "List the models that the service would serve, and why others would not be served.",
    ),
    "add": _Command(
        "add", "add_model", "Add an ONNX file as a model: read its facts, run it once, write its folder."
    ),
    "quantize": _Command(
        "quantize",
        "quantize",
        "Make a static int8 variant of a model, keep both, and say whether int8 pays on this machine.",
    ),
    "compare": _Command(
        "compare",
        "compare_photos",
        "Compare models on photos, without a server: predictions, latency, speed-up.",
    ),
    "detect": _Command(
        "detect",
        "detect_objects",
        "Find objects in photos, without a server; draw their boxes with --draw.",
    ),
    "evaluate": _Command(
        "evaluate",
        "evaluate",
        "Evaluate models on your own labelled pictures: accuracy with intervals, and tested differences.",
    ),
    "doctor": _Command(
        "doctor",
        "doctor",
        "Find out why a model is slow on this machine: problems with evidence and remedy, costliest "
        "operators.",
    ),
    "recommend": _Command(
        "recommend",
        "recommend",
        "Recommend a model for a budget, from benchmarks of this machine or from bundle files.",
    ),
    "bench": _Command(
        "bench", "bench_app", "Benchmark models on this machine, interleaved, in separate processes."
    ),
    "report": _Command(
        "report",
        "report",
        "Write a report of a benchmark: figures with intervals, the front, caveats, how to reproduce it.",
    ),
    "gate": _Command(
        "gate",
        "gate",
        "Pass or fail a new network, compared with the old one: latency and accuracy within limits, for CI.",
    ),
    "demo": _Command(
        "demo",
        "demo",
        "Run every model on four bundled photographs for at most half a minute, to see the dashboard with "
        "data.",
    ),
    "gallery": _Command(
        "gallery",
        "gallery_app",
        "Manage the gallery, which `POST /retrieve-similar` searches for similar images.",
    ),
}


def load_command(name: str) -> Any:
    """Import a command and return it as a click command. Raises KeyError for an unknown name."""
    command = COMMANDS[name]
    target = getattr(import_module(f"{__name__}.{command.module}"), command.name)
    single = typer.Typer(add_completion=False)
    if isinstance(target, typer.Typer):
        single.add_typer(target, name=name)
    else:
        single.command(name)(target)
    return get_group(single).commands[name]


class _LazyGroup(TyperGroup):
    """A group that lists commands without importing them, and imports only the command that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.add_command(load_command(args[0]))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_LazyGroup,
    help="Serve, measure and compare lightweight image networks on CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _listed in COMMANDS.items():
    app.command(_name, help=_listed.help)(lambda: None)


def main() -> None:
    """Run the command line. An expected error prints one line to standard error; the exit code is then 1."""
    atexit.register(gc.freeze)  # otherwise Python looks for garbage in all modules when it ends
    open_missing_output()
    escape_unencodable()
    configure_logging("text", "warning")  # to standard error; `serve` configures it again from its settings
    try:
        app()
    except (WeighinError, FileNotFoundError) as error:
        say(f"weighin: {error}", error=True)
        raise SystemExit(1) from None
