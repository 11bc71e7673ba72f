"""Start, observe, cancel and kill the process of a benchmark job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pydantic import ValidationError

from service.bench.job import CANCEL, JOB_REPORT, JobConfig, JobReport
from service.inference.child_process import child_command

JOB = "service.bench.job"
CANCEL_GRACE_S = 4.0
"""Seconds that a cancelled job has to report its partial bundle before it is killed."""
_LONGEST_LINE = 1 << 30


class JobProcess:
    """An object stands for the process of one job. Call all methods from the event loop's thread."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, config: JobConfig) -> JobProcess:
        """Start the process and send its configuration. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *child_command(JOB),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C on the terminal reaches only the service, which ends the job
        )
        assert process.stdin is not None
        process.stdin.write(config.model_dump_json().encode() + b"\n")
        return cls(process)

    async def reports(self) -> AsyncIterator[JobReport]:
        """Yield the reports until the process ends or is killed."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                yield await asyncio.to_thread(JOB_REPORT.validate_json, line)
            except ValidationError:
                continue  # the process was killed in the middle of a line

    def cancel(self) -> None:
        """Ask the job to stop and report a partial bundle. If it still runs after CANCEL_GRACE_S, kill it."""
        if self._process.stdin is not None:
            self._process.stdin.write(CANCEL)
        asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._kill)

    async def end(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
