"""Servers under test, each in its own process group on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN_S = 60
STOPS_WITHIN_S = 15


class Server:
    """A running server. A paused one uses no CPU time while another is measured."""

    def __init__(self, name: str, arguments: list[str], port: int, environment: dict[str, str]) -> None:
        self.name = name
        self.port = port
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("WEIGHIN_")}
            | environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait_until(self, path: str) -> float:
        """Wait until GET `path` returns 200; return the seconds since the start of the process.

        Raises RuntimeError, with the end of the server's log, if it exits or needs more than STARTS_WITHIN_S.
        """
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() - self.started < STARTS_WITHIN_S and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as link:
                link.sendall(request)
                if b" 200 " in link.recv(64):
                    return time.perf_counter() - self.started
            time.sleep(0.005)
        self.log.seek(0)
        raise RuntimeError(f"{self.name}: did not start: {self.log.read()[-1000:].decode(errors='replace')}")

    def resident_mb(self) -> float:
        """Return the resident memory of the server's first process in MB (10^6 bytes)."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        """Return the CPU time of the server's first process so far, in seconds."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Stop the process group with SIGSTOP."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a paused process group."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the process group with SIGTERM, then SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.resume()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOPS_WITHIN_S)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.log.close()


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def weighin() -> Iterator[Server]:
    """Run `weighin serve` with the models of the zoo and a new data directory."""
    with tempfile.TemporaryDirectory() as data:
        port = free_port()
        environment = {"WEIGHIN_DATA_DIR": data, "WEIGHIN_PORT": str(port)}
        server = Server("weighin", ["-m", "service", "serve"], port, environment)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def rival(name: str, model: Path) -> Iterator[Server]:
    """Run `benchmarks/rivals/NAME.py` with the model in the folder `model`."""
    port = free_port()
    server = Server(name, ["-m", f"benchmarks.rivals.{name}", str(port), str(model)], port, {})
    try:
        yield server
    finally:
        server.stop()
