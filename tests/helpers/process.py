"""The service in a separate process, as users start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import httpx

from tests.helpers.http_client import http_client, wait_until_loaded


class Started(Protocol):
    """What is needed here of `subprocess.Popen`."""

    pid: int
    stderr: IO[str] | None

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""

    def kill(self) -> None:
        """Kill it."""


class ServiceProcess:
    """`weighin serve` on a free port. `lines`: its log lines so far."""

    def __init__(self, popen: Started) -> None:
        self.popen = popen
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            url = re.search(r"http://[\d.]+:\d+", line)
            if url and not self._url:
                self._url = url.group()
                self._listening.set()
        self._listening.set()

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Wait until the service is ready; yields a client."""
        self._listening.wait(60)
        assert self._url, f"service: did not start: {''.join(self.lines)}"
        with http_client(self._url) as client:
            wait_until_loaded(client)
            yield client

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end; return its exit code."""
        code = self.popen.wait(seconds)
        self._reader.join(30)
        return code

    @property
    def log(self) -> str:
        """Its log so far."""
        return "".join(self.lines)


def environment(models_dir: Path, data_dir: Path, **settings: object) -> dict[str, str]:
    """Return the environment of a service with the tiny models on a free port, and these settings."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WEIGHIN_")}
    values = {"MODEL_DIRS": models_dir, "DATA_DIR": data_dir, "DEFAULT_MODEL": "tiny", "PORT": 0} | settings
    return inherited | {f"WEIGHIN_{key.upper()}": str(value) for key, value in values.items()}


@contextmanager
def service_process(
    models_dir: Path, data_dir: Path, *, prefix: Sequence[str] = (), **settings: object
) -> Iterator[ServiceProcess]:
    """Start `weighin serve`, with `prefix` before the command; kill it at the end if it still runs."""
    command = [*prefix, sys.executable, "-m", "service", "serve"]
    popen = subprocess.Popen(
        command, env=environment(models_dir, data_dir, **settings), stderr=subprocess.PIPE, text=True
    )
    with until_killed(popen) as process:
        yield process


@contextmanager
def until_killed(popen: Started) -> Iterator[ServiceProcess]:
    """Yield a service that was started; kill it at the end if it still runs."""
    process = ServiceProcess(popen)
    try:
        yield process
    finally:
        if popen.poll() is None:
            popen.kill()
        process.wait()
        assert popen.stderr is not None
        popen.stderr.close()
