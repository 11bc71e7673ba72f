"""Run a function in a child process with limits, without repeating the imports in each child.

On Linux, the children are forked from a *fork server*, a process that has already imported the modules. It
opens no model itself, answers one request at a time, and exits with its parent or after a minute without a
request. On other systems, each function runs in a new process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from service.errors import Busy, error_words
from service.inference.child_process import child_command

_MODULE = "service.own_models.fork_server"
FORKS = sys.platform.startswith("linux")
_IDLE_S = 60.0
_MOST_ERRORS = 2000
"""Number of bytes that are kept from the end of a child's standard error."""


@dataclass(frozen=True)
class Limits:
    """Limits of a child process: memory that it allocates after its start, and CPU time.

    A child never writes a core file. `inherited`: whether the child's own children have the same limits and
    cannot raise them.
    """

    memory_bytes: int
    cpu_s: int
    inherited: bool


@dataclass(frozen=True)
class Ended:
    """How a child process ended: its exit code, its answer, and the last part of its standard error."""

    code: int
    answer: str = ""
    errors: str = ""


class _Server:
    """A fork server that this process has started. The constructor raises Busy if it cannot be started."""

    def __init__(self, own_group: bool) -> None:
        self._own_group = own_group
        self._has_answered = False
        try:
            self._process = subprocess.Popen(
                child_command(_MODULE),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=own_group,  # Ctrl-C on the terminal is for the parent, which ends the child
            )
        except OSError as error:
            raise Busy(f"a process to try the file cannot be started: {error_words(error)}") from None
        if FORKS and self._process.stdin is not None:  # do not block if the server does not read
            os.set_blocking(self._process.stdin.fileno(), False)

    def ask(self, line: bytes, until: float) -> Ended | None:
        """Send the request `line`, and return how the child process that answered it ended.

        Return None if the server had already ended when the request was sent. The caller then needs another
        server. Raises TimeoutError at the deadline `until` (by `time.monotonic`), and Busy if no child can be
        started.
        """
        unread = False
        try:
            said = self._exchange(line, until)
        except BrokenPipeError:
            said, unread = b"", True
        if not said:
            code = self._process.wait()
            gone = self._has_answered and (unread or code == 0)  # it exits with 0 only while idle
            return None if gone else Ended(code)
        self._has_answered = True
        fields = json.loads(said)
        if "busy" in fields:
            raise Busy(fields["busy"])
        return Ended(**fields)

    def end(self) -> None:
        """Kill the server and, if it has a process group of its own, its children."""
        if self._own_group and hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # waits, and closes the pipes

    def _exchange(self, line: bytes, until: float) -> bytes:
        """Send a line, and return the answer. The answer is empty if the server ends without one.

        Raises BrokenPipeError and TimeoutError.
        """
        if not FORKS:
            try:
                return self._process.communicate(line, timeout=max(0, until - time.monotonic()))[0]
            except subprocess.TimeoutExpired:
                raise TimeoutError from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        rest, said = memoryview(line), bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdin, selectors.EVENT_WRITE)
            while rest:
                if not ready.select(max(0, until - time.monotonic())):
                    raise TimeoutError
                rest = rest[os.write(self._process.stdin.fileno(), rest) :]
            ready.unregister(self._process.stdin)
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not ready.select(max(0, until - time.monotonic())):
                    raise TimeoutError
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    return b""
                said += part
        return bytes(said)


_idle: list[_Server] = []
"""The idle server, which waits for the next request. The list is empty if no server is idle."""
_keeping = threading.Lock()


@atexit.register
def end_idle() -> None:
    """End the idle fork servers."""
    while _idle:
        _idle.pop().end()


def run_child(
    module: str, request: Mapping[str, Any], limits: Limits, *, until: float, own_group: bool
) -> Ended:
    """Call `handle` of `module` with `request` in a child process, and return how the child ended.

    If the module has a function `before_forks`, the fork server calls it before it forks. `own_group`:
    whether the child and its own children form a new process group, which is killed as a whole. It must be
    False if this process is itself a child in such a group. `until`: deadline by `time.monotonic`. Raises
    TimeoutError at the deadline, and Busy if the child cannot be started.
    """
    given = {"module": module, "request": request, "limits": asdict(limits)}
    if FORKS and not own_group:
        return _fork(given, until=until)
    line = json.dumps(given).encode() + b"\n"
    while True:
        try:
            server = _idle.pop()
        except IndexError:
            server = _Server(own_group)
        ended = None
        try:
            ended = server.ask(line, until)
        finally:
            if not (FORKS and ended is not None and ended.code == 0 and _keep(server)):
                server.end()
        if ended is not None:
            return ended


def _keep(server: _Server) -> bool:
    """Keep the server for the next request; return False if another server is kept already.

    Simultaneous requests start several servers. Only one is kept, and the caller ends the others: if they
    were kept, too, they would not be used again, and no code would wait for them when they end.
    """
    with _keeping:
        if _idle:
            return False
        _idle.append(server)
        return True


def serve() -> None:
    """Run a fork server: answer requests until the parent process ends or sends none for a minute."""
    # Output that libraries print must not mix with the answers, so it goes to standard error.
    lines = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if not FORKS:
        ended = Ended(0, _answer(json.loads(sys.stdin.buffer.readline())))
        lines.write(json.dumps(asdict(ended)).encode())
        lines.flush()
        os._exit(0)
    while line := _next_line():
        given = json.loads(line)
        module = importlib.import_module(given["module"])
        if hasattr(module, "before_forks"):
            module.before_forks()
        gc.freeze()  # so that garbage collection in a child does not touch, and thereby copy, this memory
        try:
            said = asdict(_fork(given, parent=0))
        except Busy as error:
            said = {"busy": str(error)}
        lines.write(json.dumps(said).encode() + b"\n")
        lines.flush()


def _next_line() -> bytes:
    """Return the next request. It is empty if the parent process has ended or sends none for a minute."""
    line = bytearray()
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            part = os.read(0, 1 << 16) if ready.select(_IDLE_S) else b""
            if not part:
                return b""
            line += part
    return bytes(line)


def _fork(given: Mapping[str, Any], *, until: float | None = None, parent: int | None = None) -> Ended:
    """Fork a child process that answers the request `given`, and return how the child ended.

    This process must have only one thread. `parent`: a pipe that becomes readable when the parent of this
    process ends; the process group of this process is then killed. Raises TimeoutError at `until`, and Busy
    if the child cannot be started.
    """
    pipes: list[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        pid = os.fork()
    except OSError as error:
        for pipe in pipes:
            os.close(pipe)
        raise Busy(f"a process to try the file cannot be started: {error_words(error)}") from None
    answers, to_answers, errors, to_errors = pipes
    if pid == 0:
        _live(given, to_answers, to_errors)
    os.close(to_answers)
    os.close(to_errors)
    try:
        answer, said = _read_both(answers, errors, until, parent)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(answers)
        os.close(errors)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, answer.decode(errors="replace"), said.decode(errors="replace"))


def _live(given: Mapping[str, Any], answers: int, errors: int) -> NoReturn:
    """Answer the request `given` in the forked child, then exit. This function never returns."""
    code = 1
    try:
        os.dup2(errors, 2)
        os.dup2(errors, 1)
        os.dup2(answers, 3)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 3:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        answer = _answer(given).encode()
        with os.fdopen(3, "wb") as file:
            file.write(answer)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # skips destructors, which the model may have broken


def _answer(given: Mapping[str, Any]) -> str:
    """Set the limits of this process, let the request's module answer, and return the answer as JSON."""
    handle: Callable[[Any], Mapping[str, Any]] = importlib.import_module(given["module"]).handle
    _bound(Limits(**given["limits"]))
    return json.dumps(handle(given["request"]))


def _read_both(answers: int, errors: int, until: float | None, parent: int | None) -> tuple[bytes, bytes]:
    """Return what a child process writes to the pipes `answers` and `errors` until it has ended.

    Of `errors`, only the last part is kept. `parent` is the pipe described at `_fork`. Raises TimeoutError at
    `until`.
    """
    read = {answers: bytearray(), errors: bytearray()}
    with selectors.DefaultSelector() as ready:
        for pipe in read:
            ready.register(pipe, selectors.EVENT_READ)
        if parent is not None:
            ready.register(parent, selectors.EVENT_READ)
        while ready.get_map().keys() & read.keys():
            events = ready.select(None if until is None else max(0, until - time.monotonic()))
            if not events:
                raise TimeoutError
            for key, _ in events:
                if key.fd == parent:
                    os.killpg(os.getpid(), signal.SIGKILL)
                part = os.read(key.fd, 1 << 16)
                if not part:
                    ready.unregister(key.fd)
                read[key.fd] += part
                del read[errors][:-_MOST_ERRORS]
    return bytes(read[answers]), bytes(read[errors])


def _bound(limits: Limits) -> None:
    """Set the limits of this process, where the system supports them."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + limits.memory_bytes
        _lower(resource, resource.RLIMIT_AS, limit, limits.inherited)
    _lower(resource, resource.RLIMIT_CPU, limits.cpu_s, limits.inherited)
    _lower(resource, resource.RLIMIT_CORE, 0, True)


def _lower(resource: Any, kind: int, limit: int, inherited: bool) -> None:
    """Lower one limit of this process. If the limit is lower already, it stays unchanged."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (limit, limit if inherited else hard))


if __name__ == "__main__":
    importlib.import_module(_MODULE).serve()
