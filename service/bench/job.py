"""Process of one benchmark of the service.

It reads its configuration from standard input, and writes reports to standard output. The process ends with
the service: it exits at once when its standard input closes, for whatever reason. The worker process that it
starts ends with it in the same way.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from models.zoo.frozen import Frozen
from service.bench.bundle_file import to_json
from service.bench.measure.plan import Repetitions, Request, make_plan
from service.bench.measure.progress import Progress
from service.bench.measure.runner import Runner
from service.errors import WeighinError
from service.inference.registry import Registry

CANCEL = b"cancel\n"
"""Command on a job's standard input: stop and report a partial bundle."""

_PROGRESS_INTERVAL_S = 0.1


class JobConfig(Frozen):
    """An object tells a job which models there are, and which benchmark to run.

    If `repetitions` is given, it is used instead of the repetitions of the request's profile.
    """

    model_dirs: tuple[Path, ...]
    added_models: Path | None = None
    default_model: str
    request: Request
    repetitions: Repetitions | None = None


class ProgressReport(Frozen):
    """Report on the progress of a benchmark. A job sends at most ten of these a second."""

    kind: Literal["progress"] = "progress"
    progress: Progress


class BundleReport(Frozen):
    """Last report of a benchmark that has results. `bundle` is the bundle as JSON."""

    kind: Literal["bundle"] = "bundle"
    bundle: str


class FailureReport(Frozen):
    """Last report of a benchmark that failed. `message` contains nothing that clients must not see."""

    kind: Literal["failure"] = "failure"
    message: str


JobReport = Annotated[ProgressReport | BundleReport | FailureReport, Field(discriminator="kind")]
JOB_REPORT: TypeAdapter[JobReport] = TypeAdapter(JobReport)


def main() -> int:
    """Run the benchmark that is configured on standard input. Return 0 if there is a bundle, and 1 if not."""
    # Unbuffered, because the thread that waits for commands would still hold a buffer's lock at exit.
    commands = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
    config_line = commands.readline()
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep the output of libraries out of the reports

    def send(report: JobReport) -> None:
        reports.write(report.model_dump_json() + "\n")

    last_sent = 0.0

    def send_progress(progress: Progress) -> None:
        nonlocal last_sent
        if time.monotonic() - last_sent >= _PROGRESS_INTERVAL_S:
            last_sent = time.monotonic()
            send(ProgressReport(progress=progress))

    try:
        config = JobConfig.model_validate_json(config_line)
        registry = Registry(config.model_dirs, config.default_model, added=config.added_models)
        runner = Runner(make_plan(registry, config.request, repetitions=config.repetitions), send_progress)
        threading.Thread(target=_read_commands, args=(commands, runner), daemon=True).start()
        send(BundleReport(bundle=to_json(runner.run())))
    except WeighinError as error:
        send(FailureReport(message=error.detail))
        return 1
    return 0


def _read_commands(commands: FileIO, runner: Runner) -> None:
    for line in commands:
        if line == CANCEL:
            runner.cancel()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
