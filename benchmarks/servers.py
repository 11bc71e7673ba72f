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

import psutil

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN_S = 60
STOPS_WITHIN_S = 15


class Server:
    """A running server. It can be paused, so that it uses no CPU time while another server is measured."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        port: int,
        environment: dict[str, str],
        python: Path | str = sys.executable,
    ) -> None:
        """Start `python ARGUMENTS` in the root of the repository."""
        self.name = name
        self.port = port
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [str(python), *arguments],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("WEIGHIN_")}
            | environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait_until(self, path: str) -> float:
        """Wait until GET `path` returns 200; return the seconds since the start of the process.

        If the server exits, or is not ready within STARTS_WITHIN_S from now, raises RuntimeError with the end
        of the server's log.
        """
        began = time.perf_counter()
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() - began < STARTS_WITHIN_S and self._process.poll() is None:
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

    def tree(self) -> list[psutil.Process]:
        """Return all processes of the server: the first one and its descendants."""
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def tree_cpu_s(self) -> float:
        """Return the CPU time used so far by all processes, including ended ones, in seconds."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # user and system, of the process and of ended children
        return total

    def tree_pss_mb(self) -> float:
        """Return the proportional set size of all processes in MB (10^6 bytes)."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 1e6

    def pause(self) -> None:
        """Stop all processes with SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue all paused processes."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server with SIGTERM; then end its remaining processes with SIGKILL."""
        processes = self.tree()
        self.resume()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOPS_WITHIN_S)
        self._signal(signal.SIGKILL, processes)
        self._process.wait()
        self.log.close()

    def _signal(self, number: signal.Signals, processes: list[psutil.Process] | None = None) -> None:
        """Send a signal to the server's process group, and to `processes`, which may be in other groups.

        If `processes` is None, the signal goes to all processes of the server.
        """
        processes = self.tree() if processes is None else processes
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


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
