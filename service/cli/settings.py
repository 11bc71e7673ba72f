"""Settings from the environment and the command line, for every command."""

from __future__ import annotations

import typer
from pydantic import ValidationError

from service.cli.output import say
from service.settings import Settings, environment_warnings, setting_problems


def settings_with(*, warn: bool = True, **options: object) -> Settings:
    """Return the environment's settings, overridden by the options of the command line that were given.

    Wrong settings are all named on standard error and end the command with exit code 2. `warn`: also name
    the variables that are ignored.
    """
    given = {name: value for name, value in options.items() if value not in (None, "")}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        for line in (*environment_warnings(), *setting_problems(error, given)):
            say(line, error=True)
        raise typer.Exit(2) from None
    if warn:
        for line in environment_warnings():
            say(f"weighin: {line}", error=True)
    return settings
