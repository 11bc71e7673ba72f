"""The environment's settings, overridden by the command line; a bad one is named and ends the command."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from service.settings import Settings


def settings_with(**given: object) -> Settings:
    """The environment's settings, overridden by what was given on the command line."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"WEIGHIN_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        print("\n".join(lines), file=sys.stderr)
        raise typer.Exit(2) from None
