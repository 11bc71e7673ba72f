"""Run the command line in this process, because its imports take a second; parse the JSON it writes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
from pydantic import BaseModel

from service.cli import main
from tests.helpers.process import environment

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def weighin(
    models_dir: Path, data_dir: Path, *arguments: str, encoding: str = "utf-8", **settings: object
) -> CommandResult:
    """Run `weighin` with these arguments and settings; `encoding` is that of standard output and error.

    Loggers do not keep its configuration, so that later tests in this process can capture what is logged.
    """
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, _logging_restored():
        for name in [name for name in os.environ if name.startswith("WEIGHIN_")]:
            patch.delenv(name)
        for name, value in environment(models_dir, data_dir, **settings).items():
            patch.setenv(name, value)
        configure = structlog.configure
        patch.setattr(
            structlog,
            "configure",
            lambda **given: configure(**(given | {"cache_logger_on_first_use": False})),
        )
        patch.setattr(sys, "argv", ["weighin", *arguments])
        patch.setattr(sys, "excepthook", sys.excepthook)  # restored afterwards, because typer replaces it
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, write_through=True))
        with pytest.raises(SystemExit) as exit_request:
            main()
        code = exit_request.value.code
        sys.stdout.detach()  # type: ignore[attr-defined, unused-ignore]
        sys.stderr.detach()  # type: ignore[attr-defined, unused-ignore]
    return CommandResult(int(code or 0), out.getvalue().decode(encoding), err.getvalue().decode(encoding))


def parsed(kind: type[Document], text: str | bytes) -> Document:
    """Parse JSON; fail if it lacks members of the schema, or has some that the schema does not name."""
    document = kind.model_validate_json(text)
    assert document.model_dump(mode="json", exclude_unset=True) == json.loads(text)
    return document


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    root, alembic = logging.root, logging.getLogger("alembic")
    handlers, levels, configuration = root.handlers, (root.level, alembic.level), structlog.get_config()
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        alembic.setLevel(levels[1])
        structlog.configure(**configuration)
