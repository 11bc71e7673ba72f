"""The command line in this process, which has the imports that cost a process of its own a second."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from service.cli import main
from tests.helpers.process import environment


@dataclass(frozen=True)
class Ended:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


def weighin(
    models_dir: Path, data_dir: Path, *arguments: str, encoding: str = "utf-8", **settings: object
) -> Ended:
    """Run `weighin` with these arguments and settings; `encoding`: that of standard output and error.

    Commands that log need a process of their own: a logger keeps what it was first configured with.
    """
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, _logging_kept():
        for name in [name for name in os.environ if name.startswith("WEIGHIN_")]:
            patch.delenv(name)
        for name, value in environment(models_dir, data_dir, **settings).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["weighin", *arguments])
        patch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards: typer sets its own
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, write_through=True))
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        sys.stdout.detach()  # type: ignore[attr-defined, unused-ignore]
        sys.stderr.detach()  # type: ignore[attr-defined, unused-ignore]
    return Ended(int(code or 0), out.getvalue().decode(encoding), err.getvalue().decode(encoding))


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    root, alembic = logging.root, logging.getLogger("alembic")
    handlers, levels, configuration = root.handlers, (root.level, alembic.level), structlog.get_config()
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        alembic.setLevel(levels[1])
        structlog.configure(**configuration)
