"""The process of one benchmark of the service: configuration on standard input, reports on standard output.

It dies with the service: when its standard input closes, however that came about, it ends at once, and the
process that measures for it with it, since that watches its own standard input in the same way.
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
"""Written to a job's standard input, it makes it stop and report what there is."""

_TELL_EVERY_S = 0.1


class JobConfig(Frozen):
    """What to measure, in which zoo. `repetitions` replaces those of the profile."""

    model_dirs: tuple[Path, ...]
    default_model: str
    request: Request
    repetitions: Repetitions | None = None


class ProgressReport(Frozen):
    """How far it is."""

    kind: Literal["progress"] = "progress"
    progress: Progress


class BundleReport(Frozen):
    """The measurement, as the JSON of its bundle: the last report."""

    kind: Literal["bundle"] = "bundle"
    bundle: str


class FailureReport(Frozen):
    """It could not be measured; the message is safe to show."""

    kind: Literal["failure"] = "failure"
    message: str


JobReport = Annotated[ProgressReport | BundleReport | FailureReport, Field(discriminator="kind")]
JOB_REPORT: TypeAdapter[JobReport] = TypeAdapter(JobReport)


def main() -> int:
    """Measure what the configuration on standard input says; 0 when there is a bundle."""
    # Unbuffered: the thread that waits for commands would hold a buffer's lock when the process ends.
    commands = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
    config_line = commands.readline()
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not land among the reports

    def report(each: JobReport) -> None:
        reports.write(each.model_dump_json() + "\n")

    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            report(ProgressReport(progress=progress))

    try:
        config = JobConfig.model_validate_json(config_line)
        registry = Registry(config.model_dirs, config.default_model)
        runner = Runner(make_plan(registry, config.request, repetitions=config.repetitions), tell)
        threading.Thread(target=_obey, args=(commands, runner), daemon=True).start()
        report(BundleReport(bundle=to_json(runner.run())))
    except WeighinError as error:
        report(FailureReport(message=error.detail))
        return 1
    return 0


def _obey(commands: FileIO, runner: Runner) -> None:
    for line in commands:
        if line == CANCEL:
            runner.cancel()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
