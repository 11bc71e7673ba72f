"""Read the settings of every command from the environment and the command line."""

from __future__ import annotations

import typer
from pydantic import ValidationError

from service.cli.output import say
from service.settings import Settings, environment_warnings, setting_problems


def settings_with(*, warn: bool = True, **options: object) -> Settings:
    """Return the settings from the environment; `options` that are set override them.

    Invalid settings are printed to standard error, and the command ends with exit code 2. With `warn`,
    ignored variables are printed, too.
    """
    overrides = {name: value for name, value in options.items() if value not in (None, "")}
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        for line in (*environment_warnings(), *setting_problems(error, overrides)):
            say(line, error=True)
        raise typer.Exit(2) from None
    if warn:
        for line in environment_warnings():
            say(f"weighin: {line}", error=True)
    return settings
