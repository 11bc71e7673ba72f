"""Run `weighin` in a process of its own, forked from one that has imported the program.

It does what a new interpreter does after its imports, which take more than a second of CPU time. Options of
the interpreter and its locale are those of the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

from service.cli import main
from tests.helpers.process import ServiceProcess, environment, until_killed

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [__name__, "service.app", "service.cli.serve", "service.cli.models", "service.cli.doctor"]
)


class ForkedProcess:
    """A command that runs; it has what tests use of `subprocess.Popen`. `stderr`: its standard error."""

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str], stdout: int) -> None:
        """Start it, with the file descriptor `stdout` as its standard output."""
        reader, writer = os.pipe()
        self.stderr: TextIO | None = os.fdopen(reader)
        with Connection(os.dup(stdout), readable=False) as out, Connection(writer, readable=False) as err:
            self._process = _CONTEXT.Process(
                target=_run, args=(list(arguments), dict(variables), out, err), daemon=True
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code."""
        self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"it still runs after {timeout} s"
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def forked_service(models_dir: Path, data_dir: Path, **settings: object) -> Iterator[ServiceProcess]:
    """Start `weighin serve`; kill it at the end if it still runs."""
    started = ForkedProcess(("serve",), environment(models_dir, data_dir, **settings), stdout=2)
    with until_killed(started) as process:
        yield process


def run_forked(
    arguments: Sequence[str], variables: Mapping[str, str], stdout: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with these environment variables; return how it ended and what it wrote.

    `stdout`: a file descriptor that standard output goes to instead.
    """
    with tempfile.TemporaryFile() as out:
        process = ForkedProcess(arguments, variables, out.fileno() if stdout is None else stdout)
        assert process.stderr is not None
        with process.stderr:
            errors = process.stderr.buffer.read()
        code = process.wait(60)
        out.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read(), errors)


def _run(arguments: list[str], variables: dict[str, str], out: Connection, err: Connection) -> None:
    """In the forked process, run the command."""
    with out, err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    os.environ.clear()
    os.environ.update(variables)
    encoding = variables.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["weighin", *arguments]
    main()
