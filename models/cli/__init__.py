"""`python -m models ...`: build the zoo, train, compress, evaluate and measure networks; a file per group."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from models.cli import evaluation, measurement, training, zoo
from models.errors import ModelsError

INSTALL = "make .venv-models/installed (or pip install -r models/requirements.txt)"

app = typer.Typer(
    help="Build the zoo from trained weights; train, compress, evaluate and measure networks.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, command in {
    "build": zoo.build,
    "choices": zoo.choices,
    "train": training.train,
    "prune": training.prune,
    "distill": training.distill,
    "train-int8": training.train_int8,
    "check-int8": training.check_int8,
    "search": training.search,
    "publish": evaluation.publish,
    "evaluate": evaluation.evaluate,
    "gain": evaluation.gain,
    "report": measurement.report,
    "explain": measurement.explain,
    "blocks": measurement.blocks,
    "weigh-reference": measurement.weigh_reference,
    "pull": zoo.pull,
    "table": zoo.table,
}.items():
    app.command(name)(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    An error whose cause the user can correct is printed as one line on stderr.

    Raises SystemExit with code 2, after a usage message on stderr, for unknown commands or arguments.
    """
    try:
        app(arguments, prog_name="python -m models")
    except SystemExit as exit_request:
        if exit_request.code:
            raise
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("models"):
            raise
        print(f"python -m models: {error.name}: not installed; run: {INSTALL}", file=sys.stderr)
        return 1
    except (ModelsError, ValueError, OSError, RuntimeError) as error:
        print(f"python -m models: {error}", file=sys.stderr)
        return 1
    return 0
