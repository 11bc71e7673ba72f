"""The service's end of a job: start its process with its configuration, listen to it, stop it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from pydantic import ValidationError

from service.bench.job import CANCEL, JOB_REPORT, JobConfig, JobReport

JOB = "service.bench.job"
CANCEL_GRACE_S = 4.0
"""How long a cancelled job may take to report what it has; then it is killed."""
_LONGEST_LINE = 1 << 30


class JobProcess:
    """One job. All methods belong to the event loop's thread."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, config: JobConfig) -> JobProcess:
        """Start the process and give it its configuration. OSError when it cannot be started."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            JOB,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C on the terminal is for the service, which then ends it
        )
        assert process.stdin is not None
        process.stdin.write(config.model_dump_json().encode() + b"\n")
        return cls(process)

    async def reports(self) -> AsyncIterator[JobReport]:
        """What it reports until it ends, by itself or killed."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                yield await asyncio.to_thread(JOB_REPORT.validate_json, line)
            except ValidationError:
                continue  # killed in the middle of a line

    def cancel(self) -> None:
        """Tell it to stop and report what there is; kill it when that takes too long."""
        if self._process.stdin is not None:
            self._process.stdin.write(CANCEL)
        asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._kill)

    async def end(self) -> None:
        """Make sure that it has ended."""
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
