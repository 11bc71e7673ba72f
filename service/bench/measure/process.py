"""Run a worker process: start it, yield its reports, and kill it at the end whatever happens."""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from pydantic import ValidationError

from service.bench.measure.messages import REPORT, Done, Failure, Report, WorkerConfig
from service.errors import MeasurementFailed
from service.inference.child_process import child_command

WORKER = "service.bench.measure.worker"
_POLL_INTERVAL_S = 0.25


class Cancelled(Exception):
    """Raised if the benchmark is cancelled while a worker runs."""


def run_worker(config: WorkerConfig, cancelled: Callable[[], bool], worker: str = WORKER) -> Iterator[Report]:
    """Start a worker and yield its reports. The last one is `Done`.

    Raises MeasurementFailed if the worker fails or dies, and Cancelled soon after `cancelled` returns True.
    The process is killed at the end, also after an exception or if the caller leaves the loop.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            child_command(worker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Ctrl-C on the terminal reaches only the parent, which ends the worker.
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(config.model_dump_json().encode() + b"\n")
                process.stdin.flush()
            for line in _lines(process.stdout, cancelled):
                report = _report(line)
                if isinstance(report, Failure):
                    raise MeasurementFailed(report.message)
                yield report
                if isinstance(report, Done):
                    return
            raise MeasurementFailed(f"worker process: ended early ({_exit_reason(process, errors)})")
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]


def _lines(pipe: IO[bytes], cancelled: Callable[[], bool]) -> Iterator[bytes]:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        pending = b""
        while True:
            if cancelled():
                raise Cancelled
            if not selector.select(_POLL_INTERVAL_S):
                continue
            chunk = pipe.read1(1 << 20)  # type: ignore[attr-defined]
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if cancelled():
                    raise Cancelled
                yield line


def _report(line: bytes) -> Report:
    try:
        return REPORT.validate_json(line)
    except ValidationError as error:
        raise MeasurementFailed(f"worker process: invalid report {line[:100]!r}") from error


def _exit_reason(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    code = process.wait()
    errors.seek(0)
    last_line = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    if code < 0:
        return f"killed by signal {-code}, possibly out of memory"
    return f"exit code {code}{': ' + last_line[:200] if last_line else ''}"
